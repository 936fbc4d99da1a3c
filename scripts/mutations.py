"""The changes that ``scripts.mutants`` makes to a module: one operator, constant or statement at a time."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

_COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


@dataclass(frozen=True)
class Mutant:
    """
    One change to one file.

    :param path: the file.
    :param number: position among the changes to the file.
    :param lines: the lines of the innermost statement, as far as its own expressions go.
    :param text: the function, the source line, and what became of which part of it.
    """

    path: str
    number: int
    lines: tuple[int, ...]
    text: str

    @property
    def module(self) -> str:
        """The name under which the file is imported."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def mutants_of(file: Path) -> list[Mutant]:
    """
    Return all mutants of a file.

    :param file: relative to the root of the repository.
    """
    source = file.read_text(encoding="utf-8")
    source_lines = source.splitlines()
    mutants = []
    tree = ast.parse(source)
    scopes = _scopes(tree)
    for number, (statement, before, after) in enumerate(_changes(tree)):
        line = source_lines[before.lineno - 1].strip()
        text = f"{scopes.get(before.lineno, 'module')}: {line}  # {_unparse(before)} -> {_unparse(after)}"
        mutants.append(Mutant(str(file), number, _own_lines(statement), text))
    return mutants


def compile_mutant(mutant: Mutant) -> CodeType:
    """Return the code of the changed module."""
    tree = ast.parse(Path(mutant.path).read_text(encoding="utf-8"))
    for number, (_, before, after) in enumerate(_changes(tree)):
        if number == mutant.number:
            changed = _Replace(before, after).visit(tree)
            return compile(ast.fix_missing_locations(changed), mutant.path, "exec")
    raise ValueError(f"no such mutant: {mutant}")


def _scopes(tree: ast.Module) -> dict[int, str]:
    """Return the name of the innermost function or class of each line."""
    scopes: dict[int, str] = {}

    def visit(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{name}.{child.name}".lstrip(".")
                scopes.update(dict.fromkeys(range(child.lineno, (child.end_lineno or child.lineno) + 1), inner))
            visit(child, inner)

    visit(tree, "")
    return scopes


class _Replace(ast.NodeTransformer):
    """
    Replace one node.

    :param before: the node.
    :param after: what comes in its place.
    """

    def __init__(self, before: ast.AST, after: ast.AST) -> None:
        self._before = before
        self._after = after

    def visit(self, node: ast.AST) -> Any:
        """Return the node, or what comes in its place."""
        return ast.copy_location(self._after, node) if node is self._before else self.generic_visit(node)


def _changes(tree: ast.Module) -> Iterator[tuple[ast.stmt, Any, ast.AST]]:
    """Give the innermost statement, a node of it, and what may come in the place of the node."""
    yield from _visit_body(tree.body)


def _visit_body(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, Any, ast.AST]]:
    for statement in body:
        if _is_left_out(statement):
            continue
        for after in _change_statement(statement):
            yield statement, statement, after
        for expression in _own_expressions(statement):
            for node, is_message in _walk(expression, _is_message(statement)):
                for after in _change_expression(node, is_message):
                    yield statement, node, after
        for _, value in ast.iter_fields(statement):
            if isinstance(value, list):
                for item in value:
                    if isinstance(item, ast.stmt):
                        yield from _visit_body([item])
                    elif isinstance(item, ast.ExceptHandler | ast.match_case):
                        yield from _visit_body(item.body)


def _is_left_out(statement: ast.stmt) -> bool:
    """Skip what does not run, or cannot be wrong in a way that matters: imports, docstrings, types."""
    match statement:
        case ast.Import() | ast.ImportFrom() | ast.Assert() | ast.Pass():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case (
            ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar"))) | ast.AnnAssign(annotation=ast.Name(id="TypeAlias"))
        ):
            return True
        case ast.Assign(targets=[ast.Name(id="__slots__" | "__all__" | "__version__")]):
            return True
        case ast.Assign(value=ast.Subscript(value=ast.Name(id="Literal" | "Callable" | "dict" | "Generator"))):
            return True
        case ast.ClassDef(bases=bases):
            return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in bases)
    return False


def _is_message(statement: ast.stmt) -> bool:
    """Return whether the strings of a statement are read by people only."""
    if isinstance(statement, ast.Raise):
        return True
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) and _is_log(statement.value)


def _is_log(call: ast.Call) -> bool:
    return (
        isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "log"
    )


def _own_expressions(statement: ast.stmt) -> list[ast.expr]:
    """Return the expressions of a statement, without those of the statements in it and without types."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            arguments = statement.args
            return [*arguments.defaults, *(one for one in arguments.kw_defaults if one is not None)]
        case ast.ClassDef():
            return []
        case ast.AnnAssign(value=value):
            return [value] if value is not None else []
        case ast.Try() | ast.TryStar():
            return []
        case ast.With() | ast.AsyncWith():
            return [item.context_expr for item in statement.items]
        case ast.Match():
            guards = [case.guard for case in statement.cases if case.guard is not None]
            return [statement.subject, *guards]
    return [node for node in ast.iter_child_nodes(statement) if isinstance(node, ast.expr)]


def _own_lines(statement: ast.stmt) -> tuple[int, ...]:
    ends = [one.end_lineno or one.lineno for one in _own_expressions(statement)]
    is_compound = hasattr(statement, "body")
    last = max(ends, default=statement.lineno) if is_compound else statement.end_lineno or statement.lineno
    return tuple(range(statement.lineno, last + 1))


def _walk(node: ast.AST, is_message: bool) -> Iterator[tuple[Any, bool]]:
    """Give the nodes of an expression that may be changed, and whether their strings are for people."""
    if isinstance(node, ast.JoinedStr):
        is_message = True
    yield node, is_message
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cast":
        yield from _walk(node.args[1], is_message)
        return
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr_context | ast.operator | ast.cmpop | ast.boolop | ast.unaryop):
            yield from _walk(child, is_message)


def _change_statement(statement: ast.stmt) -> Iterator[ast.AST]:
    match statement:
        case ast.Expr(value=ast.Call() | ast.Await() | ast.Yield() | ast.YieldFrom()) | ast.Raise() | ast.AugAssign():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Delete() | ast.Break() | ast.Continue():
            yield ast.Pass()
        case ast.Return(value=None | ast.Constant(value=None | False)):
            pass
        case ast.Return():
            yield ast.Return(value=ast.Constant(value=None))
        case ast.If(test=ast.Name() | ast.Attribute() | ast.Call() | ast.NamedExpr() as test):
            yield _with(statement, test=ast.UnaryOp(op=ast.Not(), operand=test))
    if isinstance(statement, ast.AugAssign) and type(statement.op) in _ARITHMETIC:
        yield _with(statement, op=_ARITHMETIC[type(statement.op)]())


def _change_expression(node: ast.AST, is_message: bool) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=ops):
            for position, operator in enumerate(ops):
                for other in _COMPARISONS.get(type(operator), ()):
                    yield _with(node, ops=[*ops[:position], other(), *ops[position + 1 :]])
        case ast.BoolOp(op=operator):
            yield _with(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.BinOp(op=operator) if type(operator) in _ARITHMETIC:
            yield _with(node, op=_ARITHMETIC[type(operator)]())
        case ast.Call(func=ast.Name(id="min" | "max")):
            pass  # the order of arguments makes no difference
        case ast.Call(args=[first, second, *rest]) if not is_message and not isinstance(first, ast.Starred):
            yield _with(node, args=[second, first, *rest])
        case ast.IfExp(body=body, orelse=orelse):
            yield _with(node, body=orelse, orelse=body)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(value=not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value=value + 1)
            if value:
                yield ast.Constant(value=value - 1)
        case ast.Constant(value=str(value)) if not is_message and " " not in value:  # words for people have spaces
            yield ast.Constant(value=f"XX{value}")


def _with(node: Any, **fields: Any) -> Any:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _unparse(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 100 else f"{text[:100]}..."
