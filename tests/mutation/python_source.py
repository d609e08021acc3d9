"""Mutants of Python: what is changed in its syntax tree, written back to the place of the text where it stands.

Never changed: docstrings and other texts, annotations, imports, decorators, and all of a ``raise``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.mutation.mutant import Mutant, Place, named

COMPARISONS = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"), ast.Pow: ("**", "*"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}  # fmt: skip
# by the last part of the name that is called
SWAPPED = {"min": "max", "minimum": "maximum", "amin": "amax", "zeros": "ones", "where": None}
SWAPPED |= {other: name for name, other in SWAPPED.items() if other and name != "zeros"}
EXPRESSIONS_LEFT_ALONE = (ast.JoinedStr, ast.Raise, ast.Import, ast.ImportFrom)


def mutants(file: str, source: str) -> list[Mutant]:
    """All mutants of a file's text, in the order of their places."""
    return named(file, source, list(_Places(source).of(ast.parse(source))))


class _Places:
    def __init__(self, source: str):
        self.text = source.encode()
        lines = source.encode().splitlines(keepends=True)
        self.begins = [sum(map(len, lines[:number])) for number in range(len(lines) + 1)]

    def span(self, node: ast.AST) -> tuple[int, int]:
        begin = self.begins[node.lineno - 1] + node.col_offset
        return begin, self.begins[node.end_lineno - 1] + node.end_col_offset

    def written(self, node: ast.AST) -> str:
        begin, end = self.span(node)
        return self.text[begin:end].decode()

    def operator(self, left: ast.AST, right: ast.AST, old: str, new: str) -> Place:
        begin, end = self.span(left)[1], self.span(right)[0]
        at = begin + self.text[begin:end].decode().index(old)
        return Place(at, at + len(old), new, f"{old} → {new}")

    def instead(self, node: ast.AST, replacement: str, change: str | None = None) -> Place:
        return Place(*self.span(node), replacement, change or f"{self.written(node)} → {replacement}")

    def of(self, node: ast.AST) -> Iterator[Place]:
        """Places in a node and below it."""
        if isinstance(node, EXPRESSIONS_LEFT_ALONE):
            return
        yield from self.here(node)
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from self.of(child)

    def here(self, node: ast.AST) -> Iterator[Place]:
        if isinstance(node, ast.Compare):
            for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                yield self.operator(left, right, *COMPARISONS[type(operator)])
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            yield self.operator(node.left, node.right, *ARITHMETIC[type(node.op)])
        elif isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
            old, new = ARITHMETIC[type(node.op)]
            yield self.operator(node.target, node.value, f"{old}=", f"{new}=")
            yield self.instead(node, "pass", "dropped")
        elif isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield self.operator(left, right, old, new)
        elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
            yield self.instead(node, f"({self.written(node.operand)})", f"{self.written(node)} → {self.written(node.operand)}")
        elif isinstance(node, ast.Constant):
            yield from self.constant(node)
        elif isinstance(node, ast.Call):
            yield from self.call(node)
        elif isinstance(node, ast.Expr):
            yield from self.statement(node)
        elif isinstance(node, ast.Continue) or (isinstance(node, ast.Return) and node.value is None):
            yield self.instead(node, "pass", "dropped")
        elif isinstance(node, ast.arguments):
            for default in (*node.defaults, *filter(None, node.kw_defaults)):
                if isinstance(default, ast.Constant) and isinstance(default.value, str):
                    yield self.instead(default, '"mutant"')
        yield from self.conditions(node)

    def constant(self, node: ast.Constant) -> Iterator[Place]:
        if isinstance(node.value, bool):
            yield self.instead(node, str(not node.value))
        elif isinstance(node.value, int):
            yield self.instead(node, str(node.value + 1))
            yield self.instead(node, str(node.value - 1) if node.value else "(-1)")
        elif isinstance(node.value, float):
            yield self.instead(node, str(node.value + 1.0))

    def call(self, node: ast.Call) -> Iterator[Place]:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
        if name in SWAPPED:
            end = self.span(function)[1]
            if name == "where" and len(node.args) == 3:
                first, second = (self.written(arg) for arg in node.args[1:])
                both = (self.span(node.args[1])[0], self.span(node.args[2])[1])
                yield Place(*both, f"{second}, {first}", "branches of where swapped")
            elif SWAPPED[name]:
                yield Place(end - len(name), end, SWAPPED[name], f"{name} → {SWAPPED[name]}")
        for keyword in node.keywords:
            if keyword.arg in ("min", "max"):
                begin, other = self.span(keyword)[0], "max" if keyword.arg == "min" else "min"
                yield Place(begin, begin + 3, other, f"{keyword.arg}= → {other}=")

    def statement(self, node: ast.Expr) -> Iterator[Place]:
        if isinstance(node.value, ast.Call):
            yield self.instead(node, "pass", "dropped")
        elif isinstance(node.value, ast.Tuple):
            for item in node.value.elts:
                yield self.instead(item, "None", f"{self.written(item)} dropped")

    def conditions(self, node: ast.AST) -> Iterator[Place]:
        tests = list(node.ifs) if isinstance(node, ast.comprehension) else []
        tests += [node.test] if isinstance(node, ast.If | ast.IfExp | ast.While) else []
        for test in tests:
            # a loop without an end says nothing that others do not
            for forced in ("False",) if isinstance(node, ast.While) else ("True", "False"):
                yield self.instead(test, forced, f"condition → {forced}")
