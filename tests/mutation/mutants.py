"""What can be changed in a module: each mutant is one small change inside one function."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_UNTOUCHED = ("logger.", "metrics.", "super().__init__")
"""Calls that are not deleted: what is logged and counted is seldom promised."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutant:
    """One change, and the code of the outermost function that it lies in, compiled with it."""

    line: int
    function: str
    was: str
    now: str
    code: CodeType

    def __str__(self) -> str:
        return f"{self.function}:{self.line}: {self.was}  →  {self.now}"


def mutants(source: str, path: str) -> Iterator[Mutant]:
    """Every mutant of a module's functions and methods, in the order of its lines.

    What a module or a class does while it is imported is not touched: its tests have it imported already.
    """
    tree = ast.parse(source)
    for name, function in _outermost(tree.body, ""):
        places = list(_inside(function))
        for number, place in enumerate(places):
            for variant in range(len(_changes(place))):
                made = copy.deepcopy(tree)
                copied = next(other for found, other in _outermost(made.body, "") if found == name)
                victim = list(_inside(copied))[number]
                was = _shown(place)
                changed = _changes(victim)[variant]
                _replace(copied, victim, changed)
                ast.fix_missing_locations(made)
                code = _code(compile(made, path, "exec"), name)
                if code is not None:
                    yield Mutant(getattr(place, "lineno", function.lineno), name, was, _shown(changed), code)


def _outermost(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, _Function]]:
    for node in body:
        if isinstance(node, _Function):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _outermost(node.body, f"{prefix}{node.name}.")


def _inside(function: _Function) -> Iterator[ast.AST]:
    """The nodes of a function's body, without docstrings and annotations."""
    for statement in function.body:
        yield from _walk(statement)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "type_comment", "decorator_list"):
            continue
        if (
            isinstance(node, ast.Call)
            and name in ("args", "keywords")
            and ast.unparse(node.func).startswith(_UNTOUCHED)
        ):
            continue
        if isinstance(node, ast.Raise) and name == "exc":
            continue  # the words of an error
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child)


def _changes(node: ast.AST) -> list[ast.AST]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in _COMPARISONS:
            return [_with(node, ops=[_COMPARISONS[type(op)]()])]
        case ast.BoolOp():
            return [_with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())]
        case ast.BinOp() if type(node.op) in _OPERATORS and not _of_text(node):
            return [_with(node, op=_OPERATORS[type(node.op)]())]
        case ast.AugAssign() if type(node.op) in _OPERATORS:
            return [_with(node, op=_OPERATORS[type(node.op)]()), ast.Pass()]
        case ast.UnaryOp(op=ast.Not()):
            return [node.operand]
        case ast.If() | ast.While() | ast.IfExp() if isinstance(node.test, ast.UnaryOp | ast.BoolOp):
            return []  # changed as an expression
        case ast.Constant(value=bool()):
            return [_with(node, value=not node.value)]
        case ast.Constant(value=int() | float() as number):
            return [_with(node, value=number + 1)]
        case ast.If() | ast.While() | ast.IfExp() if not isinstance(node.test, ast.Compare | ast.Constant):
            return [_with(node, test=ast.UnaryOp(op=ast.Not(), operand=node.test))]
        case ast.Return(value=ast.expr() as value) if not _said(value):
            return [_with(node, value=ast.Constant(value=None))]
        case ast.Expr(value=ast.Call() as call) if not ast.unparse(call).startswith(_UNTOUCHED):
            return [ast.Pass()]
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Delete() | ast.Raise():
            return [ast.Pass()]
        case ast.Break():
            return [ast.Continue()]
        case ast.Continue():
            return [ast.Break()]
    return []


def _said(value: ast.expr) -> bool:
    """A constant that stays as good as it is when None takes its place, or that is changed itself."""
    return isinstance(value, ast.Constant) and (value.value is None or isinstance(value.value, bool))


def _of_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(isinstance(side, ast.JoinedStr | ast.Constant) and not _number(side) for side in sides)


def _number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _with(node: ast.AST, **changed: object) -> ast.AST:
    fields = dict(ast.iter_fields(node)) | changed
    return ast.copy_location(type(node)(**fields), node)


def _replace(root: ast.AST, victim: ast.AST, by: ast.AST) -> None:
    ast.copy_location(by, victim)
    for parent in ast.walk(root):
        for name, value in ast.iter_fields(parent):
            if value is victim:
                setattr(parent, name, by)
            elif isinstance(value, list) and any(item is victim for item in value):
                value[:] = [by if item is victim else item for item in value]


def _code(module: CodeType, qualified: str) -> CodeType | None:
    for constant in module.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_qualname == qualified:
                return constant
            if qualified.startswith(constant.co_qualname + ".") and (found := _code(constant, qualified)):
                return found
    return None


def _shown(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0][:90]
