"""A CPU as a platform of verl: one device, no memory of its own, collectives by gloo."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry, set_platform

NAME = "cpu"


class CpuPlatform(PlatformBase):  # type: ignore[misc]
    """The machine's CPU, with the interface of verl's accelerators."""

    @property
    def device_name(self) -> str:
        return NAME

    @property
    def vendor_name(self) -> str:
        return NAME

    @property
    def device_module(self) -> types.ModuleType:
        return _DEVICE_MODULE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        # Only ever on request: verl's own search is not to find it.
        return False

    def current_device(self) -> torch.device:
        """Device that verl passes to ``Tensor.to`` and to FSDP."""
        return torch.device(NAME)

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        # Places that Ray counts; `ray_kwargs.ray_init.num_gpus` says how many there are.
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


def install() -> None:
    """Register the CPU as verl's platform in this process."""
    PlatformRegistry.register(platform=NAME)(CpuPlatform)
    set_platform(CpuPlatform())


def _nothing(*_: Any, **__: Any) -> None: ...


def _zero(*_: Any, **__: Any) -> int:
    return 0


def _device_module() -> types.ModuleType:
    """``torch.cpu`` with the functions of ``torch.cuda`` that verl also calls."""
    module = types.ModuleType("verl_agent_env_cpu")
    for name in dir(torch.cpu):
        if not name.startswith("__"):
            setattr(module, name, getattr(torch.cpu, name))
    for name in ("empty_cache", "ipc_collect", "reset_peak_memory_stats", "set_device", "synchronize"):
        setattr(module, name, _nothing)
    module.set_per_process_memory_fraction = _nothing  # type: ignore[attr-defined]
    for kind in ("allocated", "reserved"):
        setattr(module, f"memory_{kind}", _zero)
        setattr(module, f"max_memory_{kind}", _zero)
    # Free and total; verl divides by the second.
    module.mem_get_info = lambda *_: (1, 1)  # type: ignore[attr-defined]
    module.device_count = lambda: 1  # type: ignore[attr-defined]
    module.is_available = lambda: True  # type: ignore[attr-defined]
    module.current_device = _zero  # type: ignore[attr-defined]
    module.get_device_name = lambda *_: NAME  # type: ignore[attr-defined]
    module.manual_seed = module.manual_seed_all = torch.manual_seed  # type: ignore[attr-defined]
    module.get_rng_state = lambda *_: torch.get_rng_state()  # type: ignore[attr-defined]
    module.set_rng_state = lambda state, *_: torch.set_rng_state(state)  # type: ignore[attr-defined]
    return module


_DEVICE_MODULE = _device_module()
