"""The verbs of the API, each a value."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from verl_agent_env import errors as e
from verl_agent_env.engine import AwaitableOrValue, CreateRequest, Host, map_maybe
from verl_agent_env.engine.host.batches import BatchItems, close_each, create_each, each, step_each
from verl_agent_env.server.http import documented_errors as errors
from verl_agent_env.server.http.types import Handler, Request, Response
from verl_agent_env.server.verbs.create_requests import create_requests
from verl_agent_env.server.verbs.verb import Documentation, EnvironmentVerb, Verb, shared_or_each
from verl_agent_env.wire import parts, responses
from verl_agent_env.wire import schemas as r
from verl_agent_env.wire.batches import encode_closings, encode_initialized, encode_resets, encode_steps
from verl_agent_env.wire.codec import decode, decode_step
from verl_agent_env.wire.large_bodies import Turn
from verl_agent_env.wire.operations import operations_of
from verl_agent_env.wire.results import Created, EncodedReset, EncodedStep, PlayedBeginning

_CLOSED = b'{"message":"Environment closed."}'


def _json(answer: EncodedStep | EncodedReset | PlayedBeginning) -> Response:
    return Response(answer.to_json())


# --- initialize -----------------------------------------------------------------------------------------------


def new_environments(requests: Sequence[CreateRequest]) -> BatchItems:
    """Items of :data:`INITIALIZE`."""
    return BatchItems([request.env_id or "" for request in requests], requests)


async def _created_items(wanted: r.InternalInitializeRequest, turn: Turn) -> BatchItems:
    requests = await create_requests(wanted, turn)
    return new_environments(
        [
            dataclasses.replace(request, env_id=env_id)
            for request, env_id in zip(requests, wanted.env_ids, strict=True)
        ]
    )


def _created_columns(items: BatchItems) -> dict[str, Any]:
    requests: Sequence[CreateRequest] = items.wanted or ()
    first = requests[0]
    shared_kwargs = all(request.env_kwargs is first.env_kwargs for request in requests)
    same_name = all(request.env_name == first.env_name for request in requests)
    return {
        "env_name": first.env_name if same_name else None,
        "env_names": None if same_name else [request.env_name for request in requests],
        "env_kwargs": first.env_kwargs if shared_kwargs else [request.env_kwargs for request in requests],
        "seeds": [request.seed for request in requests],
        "run_id": first.run_id,
        "ttl_s": first.ttl_s,
        "env_ids": items.env_ids,
    }


INITIALIZE: Verb[Created] = Verb(
    name="initialize",
    part=r.InternalInitializeRequest,
    items=_created_items,
    columns=_created_columns,
    on_host=create_each,
    encode_part=parts.encode_created_part,
    decode_part=parts.decode_created_part,
    encode=encode_initialized.in_turns,
    makes_environments=True,
)
"""Makes environments; recognized by the ids that they get before anything is sent."""


# --- reset ----------------------------------------------------------------------------------------------------


async def _reset_items(wanted: r.BatchResetRequest, _: Turn) -> BatchItems:
    options = wanted.options
    if options is not None and not isinstance(options, list):
        options = [options] * len(wanted.env_ids)
    return BatchItems(wanted.env_ids, wanted.seeds, options)


def _reset_columns(items: BatchItems) -> dict[str, Any]:
    return {"env_ids": items.env_ids, "seeds": items.wanted, "options": shared_or_each(items.details)}


def _reset_one(host: Host) -> Handler:
    def handle(request: Request) -> AwaitableOrValue[Response]:
        wanted = decode(request.body, r.ResetRequest)
        if wanted.actions is not None and wanted.seed is not None:
            first = host.begin_and_play(
                request.env_id, wanted.seed, wanted.options, wanted.actions, request.operation()
            )
            return map_maybe(first, _json)
        return map_maybe(host.reset(request.env_id, wanted.seed, wanted.options, request.operation()), _json)

    return handle


RESET: EnvironmentVerb[EncodedReset] = EnvironmentVerb(
    name="reset",
    part=r.InternalResetRequest,
    items=_reset_items,
    columns=_reset_columns,
    on_host=each(lambda calls: calls.reset),
    encode_part=parts.encode_reset_part,
    decode_part=parts.decode_reset_part,
    encode=encode_resets.in_turns,
    operations=lambda call, items: operations_of(call, items.env_ids),
    single=_reset_one,
    single_request=r.ResetRequest,
    batch_request=r.BatchResetRequest,
    one=Documentation(
        "Begin another episode",
        responses.ResetResponse,
        (
            *errors.BODY,
            *errors.LIVE,
            e.InvalidEnvArgumentsError,
            e.ArgumentsTooLargeError,
            e.SequenceStaleError,
            *errors.RUN,
        ),
    ),
    many=Documentation(
        "Begin another episode in many environments",
        responses.BatchResetResponse,
        errors.BATCH,
    ),
)
"""Begins another episode; recognized by its operation."""


# --- step -----------------------------------------------------------------------------------------------------


async def _step_items(wanted: r.BatchStepRequest, _: Turn) -> BatchItems:
    return BatchItems(wanted.env_ids, wanted.actions, wanted.seqs)


def _step_columns(items: BatchItems) -> dict[str, Any]:
    return {"env_ids": items.env_ids, "actions": items.wanted, "seqs": items.details}


def _step_one(host: Host) -> Handler:
    # Where nothing is kept outside this process, nothing can be brought back.
    apply = host.calls.step if host.recovery is None else host.step

    def handle(request: Request) -> AwaitableOrValue[Response]:
        action, seq = decode_step(request.body)
        answer = apply(request.env_id, action, seq, request.operation())
        # Nearly always, without the calls that waiting takes.
        return Response(answer.to_json()) if type(answer) is EncodedStep else map_maybe(answer, _json)

    return handle


STEP: EnvironmentVerb[EncodedStep] = EnvironmentVerb(
    name="step",
    part=r.InternalStepRequest,
    items=_step_items,
    columns=_step_columns,
    on_host=step_each,
    encode_part=parts.encode_step_part,
    decode_part=parts.decode_step_part,
    encode=encode_steps.in_turns,
    operations=lambda call, items: operations_of(call, items.env_ids),
    single=_step_one,
    single_request=r.StepRequest,
    batch_request=r.BatchStepRequest,
    one=Documentation(
        "Carry out one action",
        responses.StepResponse,
        (*errors.BODY, e.ActionTooLargeError, *errors.LIVE, *errors.SEQUENCE, *errors.RUN),
    ),
    many=Documentation(
        "Carry out one action in each of many environments",
        responses.BatchStepResponse,
        errors.BATCH,
    ),
)
"""Carries out an action; recognized by its ``seq``, or by its operation."""


# --- close ----------------------------------------------------------------------------------------------------


async def _close_items(wanted: r.BatchCloseRequest, _: Turn) -> BatchItems:
    return BatchItems(wanted.env_ids or ())


def _close_one(host: Host) -> Handler:
    def handle(request: Request) -> AwaitableOrValue[Response]:
        return map_maybe(host.close(request.env_id), lambda _: Response(_CLOSED))

    return handle


CLOSE: EnvironmentVerb[None] = EnvironmentVerb(
    name="close",
    part=r.BatchCloseRequest,
    items=_close_items,
    columns=lambda items: {"env_ids": items.env_ids},
    on_host=close_each,
    encode_part=parts.encode_closed_part,
    decode_part=parts.decode_closed_part,
    encode=encode_closings,
    single=_close_one,
    single_request=None,
    batch_request=r.BatchCloseRequest,
    one=Documentation(
        "Close the environment; closing twice is a success",
        responses.MessageResponse,
        (e.EnvironmentNotFoundError,),
    ),
    many=Documentation(
        "Close many environments, by id or all of a run",
        responses.BatchCloseResponse,
        errors.BATCH,
    ),
)
"""Closes an environment; closing twice does no harm."""


ENVIRONMENT_VERBS: tuple[EnvironmentVerb[Any], ...] = (RESET, STEP, CLOSE)
"""Those on environments that are there, in the order of the API's document."""

VERBS: tuple[Verb[Any], ...] = (INITIALIZE, *ENVIRONMENT_VERBS)
"""All of them."""
