#!/usr/bin/env python3
"""Runs a static x86-64 program of Linux on an emulated CPU, for instructions that this machine lacks.

    python3 tools/emulate.py [--cpu NAME] PROGRAM

`tenon verify --engine object --target zen4` uses it where TENON_EMULATOR_x86_64="python3 tools/emulate.py --cpu sapphire_rapids".
The CPU is one of Bochs, as a library (the Python package bochscpu-python): corei7_skylake_x, which is the level x86-64-v4, unless
NAME says another, such as tigerlake (AVX512-VNNI) or sapphire_rapids (AVX512-BF16). The program may read its standard
input, write its standard output, and exit: all that a model and the program around it do. It has the memory it was linked for and
a stack; an address outside or an instruction that the CPU does not know ends the run with status 127.
"""

import argparse
import ctypes
import mmap
import os
import struct
import sys

import bochscpu
import bochscpu.memory

# Below every address that a linker gives: page tables (one PDPT and its directories, of 2 MiB pages), the kernel's door, a stack.
PML4, PDPT, DIRECTORIES, DOOR, STACK_TOP = 0x1000, 0x2000, 0x3000, 0x9000, 0x200000
PAGE, LARGE, GIB = 0x1000, 0x200000, 1 << 30
PRESENT_WRITABLE, LARGE_PAGE = 0x3, 0x80
EBADF, ENOSYS = 9, 38
# The CPUs that releases of the library make unasked.
LIBRARYS_CHOICE = ["corei3_cnl", "tigerlake"]


def load(program):
    """The memory of the program in `program` (an ELF file's bytes), and where it starts."""
    if program[:4] != b"\x7fELF" or program[18:20] != b"\x3e\x00":
        sys.exit("emulate: not a program for x86-64")
    start, table = struct.unpack_from("<QQ", program, 24)
    size, count = struct.unpack_from("<HH", program, 54)
    parts = [struct.unpack_from("<IIQQQQQ", program, table + i * size) for i in range(count)]
    parts = [(at, to, held, whole) for kind, _, at, to, _, held, whole in parts if kind == 1]
    end = max(to + whole for _, to, _, whole in parts)
    if min(to for _, to, _, _ in parts) < STACK_TOP or end > 4 * GIB:
        sys.exit("emulate: only programs linked to addresses of 2 MiB to 4 GiB")
    memory = mmap.mmap(-1, (end + LARGE - 1) // LARGE * LARGE)
    for at, to, held, _ in parts:
        memory[to : to + held] = program[at : at + held]
    return memory, start


def choose(cpu):
    """Makes the next CPU one of that name: the library always makes its own choice, so those functions go on in the other."""
    import bochscpu._bochscpu as module

    library, system = ctypes.CDLL(module.__file__), ctypes.CDLL(None)

    def maker(name):
        try:
            function = getattr(library, f"_Z{len(name) + 13}create_{name}_cpuidP8BX_CPU_C")
        except AttributeError:
            sys.exit(f"emulate: no CPU is called {name}")
        return ctypes.cast(function, ctypes.c_void_p).value

    there = maker(cpu)
    for name in LIBRARYS_CHOICE:
        here = maker(name)
        if here == there:
            continue
        begin = here // PAGE * PAGE
        if system.mprotect(ctypes.c_void_p(begin), ctypes.c_size_t(2 * PAGE), 7) != 0:
            sys.exit("emulate: the library's code cannot be changed here")
        ctypes.memmove(here, b"\xe9" + struct.pack("<i", there - here - 5), 5)  # jmp


def machine(memory, start):
    """A CPU in 64-bit mode with that memory at its own addresses, about to run `start`; and the state it begins with."""
    host = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for at in range(0, len(memory), PAGE):
        bochscpu.memory.page_insert(at, host + at)
    memory[PML4 : PML4 + 8] = struct.pack("<Q", PDPT | PRESENT_WRITABLE)
    for i in range((len(memory) + GIB - 1) // GIB):
        memory[PDPT + 8 * i : PDPT + 8 * i + 8] = struct.pack("<Q", (DIRECTORIES + PAGE * i) | PRESENT_WRITABLE)
    for i in range(len(memory) // LARGE):
        at = DIRECTORIES + 8 * i
        memory[at : at + 8] = struct.pack("<Q", LARGE * i | LARGE_PAGE | PRESENT_WRITABLE)
    # A system call comes here, and stops the CPU.
    memory[DOOR : DOOR + 1] = b"\xf4"

    state = bochscpu.State()
    state.cr0, state.cr3, state.cr4 = 0x80050033, PML4, 0x406A0  # paging; PAE, SSE and XSAVE are on
    state.efer, state.lstar, state.star = 0xD01, DOOR, 0x10 << 32  # 64-bit mode, with system calls
    state.xcr0, state.mxcsr, state.mxcsr_mask = 0xE7, 0x1F80, 0xFFFF  # all of the vector state; floats as a program finds them
    state.rflags, state.rip, state.rsp = 2, start, STACK_TOP - 64
    for name, selector, kind in [("cs", 0x10, 0xA09B), *((n, 0x18, 0xC093) for n in ["ss", "ds", "es", "fs", "gs"])]:
        segment = bochscpu.Segment()
        segment.present, segment.selector, segment.base, segment.limit, segment.attr = True, selector, 0, 0xFFFFFFFF, kind
        setattr(state, name, segment)
    return state


def run(memory, state):
    """Runs to the program's exit; gives its status."""
    session = bochscpu.Session()
    stopped = []

    def missing(address):
        stopped.append(f"touched {address:#x}, where nothing is")

    def fault(session, _cpu, vector, code):
        stopped.append(f"exception {vector} (code {code:#x}) at {session.cpu.rip:#x}")
        session.stop()

    session.missing_page_handler = missing
    hook = bochscpu.Hook()
    hook.hlt = lambda session, _cpu: session.stop()
    hook.exception = fault
    session.cpu.state = state
    while True:
        session.run([hook])
        if stopped:
            sys.stderr.write(f"emulate: {stopped[0]}\n")
            return 127
        state = session.cpu.state
        number, file, at, n = state.rax, state.rdi, state.rsi, state.rdx
        if number == 60:
            return file & 0xFF
        if number == 0 and file == 0:
            result = os.readv(0, [memoryview(memory)[at : at + n]])
        elif number == 1 and file in (1, 2):
            result = os.write(file, memoryview(memory)[at : at + n])
        else:
            result = -(EBADF if number in (0, 1) else ENOSYS)
        state.rax = result & 0xFFFFFFFFFFFFFFFF
        state.rip, state.rflags = state.rcx, state.r11
        session.cpu.state = state


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cpu", default="corei7_skylake_x")
    options.add_argument("program")
    options = options.parse_args()
    with open(options.program, "rb") as file:
        memory, start = load(file.read())
    choose(options.cpu)
    status = run(memory, machine(memory, start))
    # The library does not end well: leave without its destructors.
    sys.stdout.flush()
    os._exit(status)


main()
