"""Program that runs in a sandbox: gives up what it does not need, then runs the code of one call.

Started by :mod:`.sandbox` as ``python -s -S -B -c TEXT``, with the standard library only. Standard input holds a line of JSON,
``{"memory_bytes", "cpu_s", "paths"}``, and the code. Standard error gets a line when everything is given up; from then on
it is standard output.

What a namespace does not keep away, a filter of system calls does: no other process or thread, no other program, no socket, no
shared memory, no namespaces or mounts, nothing that changes the machine. With one process its address space bounds all
memory, and with no file to write, nothing else takes any.
"""

from __future__ import annotations

import ast
import ctypes
import json
import linecache
import os
import platform
import resource
import struct
import sys
import traceback
from typing import Any

READY = b"ready\n"
_NAME = "<code>"
_MAX_OPEN_FILES = 32
_MAX_TRACEBACK_LINES = 20

_EPERM, _ENOSYS = 1, 38
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""``AUDIT_ARCH`` and the column of :data:`_DENIED` by the machine's name."""
# Numbers of Linux' system calls on x86_64 and aarch64 (include/uapi/asm-generic/unistd.h, syscall_64.tbl); None: there is none.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "clone": (56, 220),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "socket": (41, 198),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "fanotify_init": (300, 262),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "personality": (135, 92),
    "iopl": (172, None),
    "ioperm": (173, None),
}


def main() -> None:
    """Run the code of standard input."""
    head, _, code = sys.stdin.buffer.read().partition(b"\n")
    limits: dict[str, Any] = json.loads(head)
    sys.path[:] = [path for path in sys.path if path] + limits["paths"]
    for name, value in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(name, (value, value))
    deny_system_calls()
    os.write(2, READY)
    os.dup2(1, 2)
    run(code.decode("utf-8", "replace"))


def run(code: str) -> None:
    """Run code as a module; print the value of its last expression, or where it failed."""
    linecache.cache[_NAME] = len(code), None, code.splitlines(keepends=True), _NAME
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    try:
        body = ast.parse(code, _NAME)
        last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
        exec(compile(body, _NAME, "exec"), namespace)  # noqa: S102 - what this process is for
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), _NAME, "eval"), namespace)  # noqa: S307
            if value is not None:
                print(repr(value))  # noqa: T201
    except SystemExit:
        raise
    except BaseException as fault:  # noqa: BLE001 - whatever the code raises is shown to its author
        sys.stdout.flush()
        _show(fault)
        raise SystemExit(1) from None


def _show(fault: BaseException) -> None:
    """Print a traceback without the frames of this program."""
    frames = fault.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != _NAME:
        frames = frames.tb_next
    lines = traceback.format_exception(type(fault), fault.with_traceback(None), None)
    if frames is not None:
        # The last frames: a recursion that is too deep has a thousand.
        lines = [
            "Traceback (most recent call last):\n",
            *traceback.format_tb(frames, -_MAX_TRACEBACK_LINES),
            *lines,
        ]
    sys.stderr.write("".join(lines))


def deny_system_calls() -> None:
    """Have the kernel refuse the system calls of :data:`_DENIED` to this process, for good.

    Raises:
        OSError: The kernel has no such filters, or this processor's numbers are not known here.
    """
    program = _filter(*_ARCHITECTURES.get(platform.machine(), (0, -1)))
    libc = ctypes.CDLL(None, use_errno=True)
    memory = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and where they are.
    described = struct.pack("HL", len(program) // 8, ctypes.addressof(memory))
    set_no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
    if libc.prctl(set_no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, mode_filter, described, 0, 0):
        raise OSError(ctypes.get_errno(), "this kernel filters no system calls")


def _filter(architecture: int, column: int) -> bytes:
    """Return a BPF program over ``struct seccomp_data``: refuse what is denied, and all calls of other architectures."""
    if column < 0:
        raise OSError(_ENOSYS, f"the system calls of {platform.machine()} are not known")
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    allow, kill, errno = 0x7FFF0000, 0x80000000, 0x00050000
    number_at, architecture_at = 0, 4

    def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    program = [
        instruction(load, architecture_at),
        instruction(equal, architecture, 1, 0),
        instruction(give, kill),
        instruction(load, number_at),
        # Numbers of the ABI x32 are other names for the same calls.
        instruction(at_least, 0x40000000, 0, 1),
        instruction(give, kill),
    ]
    for name, numbers in _DENIED.items():
        number = numbers[column]
        if number is not None:
            # The C library takes "not there" for clone3 as a reason to use clone.
            refusal = _ENOSYS if name == "clone3" else _EPERM
            program += [instruction(equal, number, 0, 1), instruction(give, errno | refusal)]
    return b"".join([*program, instruction(give, allow)])


if __name__ == "__main__":
    main()
