"""verl's data sets over curated files: local, and checked before the training starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import datasets
import orjson
import pyarrow
import pyarrow.parquet
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_agent_env.integrations.datasets.server_tasks import is_task_reference, rows_of_tasks
from verl_agent_env.integrations.datasets.tables import table_of
from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.rollout.curriculum import ServedCurriculum
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.rollout.preflight import check_server
from verl_agent_env.integrations.rollout.row import AGENT_NAME, HOW_TO_MAKE, EpisodeSpec
from verl_agent_env.integrations.verl.rollout.agent_loop import options_in, require_chat_template
from verl_agent_env.integrations.verl.rollout.answers import AnswerReader

logger = logging.getLogger(__name__)


class EnvDataset(RLHFDataset):  # type: ignore[misc]
    """verl's data set over files of ``verl-agent-env curate``, and over the tasks that the server lists.

    In place of a file, ``tasks:ENV_NAME/SPLIT`` stands for the first tasks of a split of the server at ``data.env.url``.
    Nothing is fetched from anywhere else, no cache is written, and what would go wrong in the training is said when the
    data set is made: before anything is loaded onto a device.
    """

    def _read_files_and_tokenize(self) -> None:
        """Read the files; called by verl's constructor.

        Raises:
            TrainingSetupError: Data, model, budgets or server do not fit; one sentence says what to do.
        """
        require_chat_template(self.tokenizer, self.processor)
        options = RolloutOptions.from_mapping(options_in(self.config)).located()
        tables = [self._table(path, options) for path in self.data_files]
        # A file may have been made otherwise, with other columns than a list of tasks.
        table = pyarrow.concat_tables(tables, promote_options="default")
        if not table.num_rows:
            raise TrainingSetupError(f"There are no rows in {', '.join(self.data_files)}: {HOW_TO_MAKE}.")
        data = datasets.Dataset(table)
        if 0 < self.max_samples < len(data):
            data = data.select(range(self.max_samples))
        # Only to see that there is such a parser.
        AnswerReader(options.parser_name(), self.tokenizer)
        specs = [EpisodeSpec.from_row(row) for row in data.select_columns("extra_info")]
        self._require_vision(specs)
        self.dataframe = self._fitting(data, specs, options)
        self._curriculum = self._made_curriculum(options)
        if options.check_server:
            check_server(options, specs)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Return a row for the agent loop; with a curriculum the next one that it draws, whichever was asked for."""
        if self._curriculum is not None:
            item = self._curriculum.next_row()
        row: dict[str, Any] = super().__getitem__(item)
        row.setdefault("agent_name", AGENT_NAME)
        return row

    def _table(self, path: str, options: RolloutOptions) -> pyarrow.Table:
        if not is_task_reference(path):
            return _read(path)
        limit = self.max_samples if self.max_samples > 0 else None
        return table_of(rows_of_tasks(path, options, limit))

    def _made_curriculum(self, options: RolloutOptions) -> ServedCurriculum | None:
        """Return the curriculum of the rows to train on, if the options ask for one."""
        is_training = list(self.data_files) == _listed(self.config.get("train_files"))
        if options.curriculum == "none" or not is_training:
            return None
        if self.config.get("dataloader_num_workers", 8) != 0:
            raise TrainingSetupError(
                "The option 'curriculum' draws rows in one process: set data.dataloader_num_workers=0."
            )
        specs = [EpisodeSpec.from_row(row) for row in self.dataframe.select_columns("extra_info")]
        rows = int(self.config.get("train_batch_size") or 1)
        return ServedCurriculum(options, specs, int(self.config.get("seed") or 0), rows)

    def _require_vision(self, specs: Sequence[EpisodeSpec]) -> None:
        blind = self.processor is None
        for spec in specs:
            if blind and spec.takes_images:
                raise TrainingSetupError(
                    f"'{spec.env_name}' shows pictures, but the model takes none: curate with "
                    '--env-kwargs \'{"observation_mode": "text"}\', or train a vision-language model.'
                )

    def _fitting(
        self, data: datasets.Dataset, specs: Sequence[EpisodeSpec], options: RolloutOptions
    ) -> datasets.Dataset:
        """Return the rows whose prompt fits into the budget; raise if some do not, unless verl is set to filter.

        Pictures are not counted: how many tokens one takes is known when it is shown.
        """
        budget = int(self.max_prompt_length)
        lengths = [
            self._prompt_length(row[self.prompt_key], spec, options)
            for row, spec in zip(data.select_columns(self.prompt_key), specs, strict=True)
        ]
        longest = max(lengths)
        fitting = [number for number, length in enumerate(lengths) if length <= budget]
        if len(fitting) == len(lengths):
            return data
        advice = f"set data.max_prompt_length={longest}"
        if not self.filter_overlong_prompts:
            raise TrainingSetupError(
                f"{len(lengths) - len(fitting):,} of {len(lengths):,} prompts are longer than the budget of {budget:,} "
                f"tokens: {advice}, or leave them out with data.filter_overlong_prompts=True."
            )
        if not fitting:
            raise TrainingSetupError(
                f"Every prompt is longer than the budget of {budget:,} tokens: {advice}."
            )
        logger.warning(
            "left out %d of %d rows: their prompts are too long", len(lengths) - len(fitting), len(lengths)
        )
        return data.select(fitting)

    def _prompt_length(
        self, messages: list[dict[str, Any]], spec: EpisodeSpec, options: RolloutOptions
    ) -> int:
        if options.system_prompt and not spec.system_prompt:
            messages = [{"role": "system", "content": options.system_prompt}, *messages]
        template = {
            name: value
            for name, value in self.apply_chat_template_kwargs.items()
            if name not in ("tokenize", "return_dict", "return_tensors")
        }
        text = (self.processor or self.tokenizer).apply_chat_template(
            messages,
            tools=(spec.tools or None) if options.action_format == "auto" else None,
            add_generation_prompt=True,
            tokenize=False,
            **template,
        )
        return len(self.tokenizer.encode(text, add_special_tokens=False))


def _listed(files: Any) -> list[str]:
    """Return the files of an option, which names one or several."""
    return [files] if isinstance(files, str) else [str(file) for file in files or ()]


class EnvSFTDataset(MultiTurnSFTDataset):  # type: ignore[misc]
    """verl's data set for supervised fine-tuning on curated demonstrations, with the tools in the prompt."""

    def _read_files_and_process(self) -> None:
        super()._read_files_and_process()
        if "tools_json" in self.dataframe.columns:
            self.tools = [orjson.loads(text) or None for text in self.dataframe["tools_json"]]


def _read(path: str) -> pyarrow.Table:
    """Read the rows of a file.

    Raises:
        TrainingSetupError: The file is not a curated data set.
    """
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as broken:
        raise TrainingSetupError(f"'{path}' cannot be read as parquet ({broken}): {HOW_TO_MAKE}.") from None
    for column in ("prompt", "extra_info"):
        if column not in table.column_names:
            raise TrainingSetupError(f"'{path}' has no column '{column}': {HOW_TO_MAKE}.")
    return table
