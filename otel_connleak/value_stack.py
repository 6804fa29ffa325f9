"""What an activation keeps where no variable names it: the value stack of the interpreter (L0).

``with session():`` without ``as``, ``for row in stream():`` and ``f(session(), g())`` keep an object that no
search can find while the activation runs. How many values lie there follows from the code and from the place
where it is, in the way that the compiler computes ``co_stacksize``: along every path, each instruction adds
its effect.
"""

from __future__ import annotations

import dis
import inspect
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any, Final

_ENDS: Final = frozenset(
    "RETURN_VALUE RETURN_CONST RAISE_VARARGS RERAISE INTERPRETER_EXIT "
    "JUMP_FORWARD JUMP_BACKWARD JUMP_BACKWARD_NO_INTERRUPT".split()
)
"""Instructions behind which the code does not go on at the next one."""
_CALLS: Final = frozenset("CALL CALL_KW CALL_FUNCTION_EX".split())
"""Instructions that take what is called with its arguments from the stack, and put back a result."""
_CODE_UNIT: Final = 2
"""Bytes of one instruction, or of one entry of its inline cache."""
_GENERATOR: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_FIRST_EFFECT: Final = dis.stack_effect(dis.opmap["RETURN_GENERATOR"])
_MOST_CODES: Final = 256


def hides_values(frame: FrameType) -> bool:
    """Whether an activation that runs has values on its stack, beside those of the call that it is in.

    Args:
        frame: of an activation that has called something. Where the answer cannot be known it is True.
    """
    if frame.f_lasti < 0:
        return False
    try:
        below = _below(frame.f_code)
        # During a call ``f_lasti`` points into the inline cache behind the instruction, on 3.12.
        offset = frame.f_lasti
        while offset >= 0 and offset not in below:
            offset -= _CODE_UNIT
        return below.get(offset, 1) > 0
    except Exception:  # an interpreter with other instructions
        return True


@lru_cache(_MOST_CODES)
def _below(code: CodeType) -> dict[int, int]:
    """By the offset of each instruction, how many values lie below what it works with."""
    instructions = list(dis.get_instructions(code))
    positions = {instruction.offset: index for index, instruction in enumerate(instructions)}
    below: dict[int, int] = {}
    # On 3.12 a generator's first instruction is said to push nothing, and the next one takes it away.
    paths = [(0, int(bool(code.co_flags & _GENERATOR) and _FIRST_EFFECT == 0))]
    # For a handler the interpreter cuts the stack to its depth, and adds the error, and before it its place.
    paths += [(handler.target, handler.depth + handler.lasti + 1) for handler in _handlers(code)]
    while paths:
        offset, depth = paths.pop()
        index = positions[offset]
        while instructions[index].offset not in below:
            instruction = instructions[index]
            effect = _effect(instruction, jump=False)
            below[instruction.offset] = depth + effect - (instruction.opname in _CALLS)
            if instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs:
                paths.append((instruction.argval, depth + _effect(instruction, jump=True)))
            if instruction.opname in _ENDS:
                break
            depth += effect
            index += 1
    return below


def _effect(instruction: dis.Instruction, *, jump: bool) -> int:
    argument = instruction.arg if instruction.opcode >= dis.HAVE_ARGUMENT else None
    return dis.stack_effect(instruction.opcode, argument, jump=jump)


def _handlers(code: CodeType) -> list[Any]:
    # The only reader of ``co_exceptiontable`` in the standard library, in every version since 3.11.
    return list(dis._parse_exception_table(code))  # type: ignore[attr-defined] # it is private
