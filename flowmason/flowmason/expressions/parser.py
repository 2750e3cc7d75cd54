"""Source to tree: precedence climbing over the tokens, then paths resolved against `Names`."""

from __future__ import annotations

from typing import Never

from flowmason.expressions.functions import ARITY
from flowmason.expressions.lexer import Lexer
from flowmason.expressions.limits import MAX_DEPTH, nearest, shorten
from flowmason.expressions.names import Names, located, resolve
from flowmason.expressions.tree import (
    Access,
    Arithmetic,
    Call,
    Choose,
    Compare,
    Expr,
    Key,
    Literal,
    Logic,
    MakeList,
    MakeObject,
    Negate,
    Not,
    Path,
    depth,
)

_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}

_OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _SIGN = range(7)
_LEVELS = {"or": _OR, "and": _AND, "in": _COMPARE, "not": _COMPARE}
_LEVELS |= dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), _COMPARE)
_LEVELS |= dict.fromkeys(("+", "-"), _SUM) | dict.fromkeys(("*", "/", "%"), _PRODUCT)


def parse_expression(source: str, names: Names) -> Expr:
    """The tree of one expression.

    Raises `ExpressionError` whose `details` hold `offset` (characters from the start of `source`), `reason`
    and, where there is one, `nearest`.
    """
    parser = Parser(source, 0, names)
    tree = parser.whole()
    if parser.lexer.kind != "end":
        parser.unexpected()
    return tree


def parse_embedded(source: str, start: int, names: Names) -> tuple[Expr, int]:
    """The expression that begins at `start`, just after a `{{`, and the offset just after its `}}`."""
    parser = Parser(source, start, names)
    if parser.lexer.kind == "end":
        parser.close(start - 2)
    tree = parser.whole()
    return tree, parser.close(start - 2)


def parse_bare_condition(source: str, names: Names) -> Expr:
    """An expression in which `{{ … }}` may stand for parentheses: `{{a}} == 200 and {{b}}`."""
    parser = Parser(source, 0, names, braces=True)
    tree = parser.whole()
    if parser.lexer.kind != "end":
        parser.unexpected()
    return tree


class Parser:
    """Parses one expression from `start`; `braces` allows `{{ … }}` as parentheses."""

    def __init__(self, source: str, start: int, names: Names, *, braces: bool = False) -> None:
        self.source = source
        self.start = start
        self.names = names
        self.braces = braces
        self.nesting = 0
        self.operators = 0
        self.lexer = Lexer(source, start)

    def whole(self) -> Expr:
        """The outermost expression."""
        if self.lexer.kind == "end" or (self.lexer.at("}") and not self.braces):
            self.lexer.fail("an expression is missing")
        try:
            tree = self.expression()
        except RecursionError:
            self._too_deep(self.start)
        if depth(tree) > MAX_DEPTH:
            self._too_deep(self.start)
        return tree

    def close(self, opened: int) -> int:
        """Expect `}}`; the offset after it."""
        lexer = self.lexer
        if lexer.kind == "end":
            lexer.fail("the {{ is not closed", offset=opened, help="Close it with }}; a literal {{ is written {{{{.")
        if not (lexer.at("}") and self.source.startswith("}", lexer.end)):
            self.unexpected()
        return lexer.end + 1

    def expression(self) -> Expr:
        """`or`-expression, then perhaps `if … else …`."""
        self.nesting += 1
        if self.nesting > MAX_DEPTH + 1:
            self._too_deep()
        tree = self.infix(_OR)
        if self.lexer.at("if"):
            self.lexer.advance()
            condition = self.infix(_OR)
            self._expect("else", "`a if condition else b` needs its else")
            tree = Choose(tree, condition, self.expression())
        self.nesting -= 1
        return tree

    def infix(self, lowest: int) -> Expr:
        """An operand and every operator after it that binds at least as tightly as `lowest`."""
        left = self.prefix(lowest)
        while (level := self._level()) is not None and level >= lowest:
            ops: list[str] = []
            rest: list[Expr] = []
            while self._level() == level:
                ops.append(self._operator())
                rest.append(self._operand(level + 1))
            left = _chain(level, left, tuple(ops), tuple(rest))
        return left

    def _operand(self, lowest: int) -> Expr:
        """What an operator works on, one level down."""
        self.operators += 1
        if self.operators > MAX_DEPTH:
            self._too_deep()
        tree = self.infix(lowest)
        self.operators -= 1
        return tree

    def prefix(self, lowest: int) -> Expr:
        """`not x`, `-x`, or a path, call, literal … with what is accessed below it."""
        lexer = self.lexer
        if lexer.at("not"):
            if lowest > _NOT:
                lexer.fail("`not` binds loosely here", help="Put it in parentheses: (not x).")
            lexer.advance()
            return Not(self._operand(_NOT))
        if lexer.at("-"):
            lexer.advance()
            if lexer.kind == "number":
                value = lexer.number()
                if isinstance(value, int) and value > 2**63:
                    lexer.fail("an integer of more than 64 bits")
                lexer.advance()
                return Literal(-value)
            return Negate(self._operand(_SIGN))
        return self.postfix()

    def postfix(self) -> Expr:
        """A primary and the `.field`, `[index]` and `['key']` after it."""
        lexer = self.lexer
        start = lexer.start
        if lexer.kind == "number":
            number = Literal(lexer.number())
            lexer.advance()
            return number
        tree = self._named() if lexer.kind == "name" else self._primary()
        computed = 0
        while (key := self._key()) is not None:
            if isinstance(tree, Path) and isinstance(key, Literal):
                tree = located(tree.root, (*tree.path, _static(key)), tree.offset)
                continue
            tree = Access(tree, key)
            computed += 1
            if computed > MAX_DEPTH:
                self._too_deep(start)
        if lexer.at("("):
            lexer.fail("there are no methods", help="Functions are called by name: upper(x), len(x).")
        return tree

    def _named(self) -> Expr:
        """A call, or a path as far as it is static, and one computed key after that."""
        lexer = self.lexer
        name, start = lexer.text, lexer.start
        lexer.advance()
        if lexer.at("("):
            return self._call(name, start)
        keys: list[Key] = []
        key = self._key()
        while isinstance(key, Literal):
            keys.append(_static(key))
            key = self._key()
        path = resolve(self.names, name, tuple(keys), self.lexer, start)
        return path if key is None else Access(path, key)

    def _key(self) -> Expr | None:
        """What the next `.field` or `[…]` accesses; None where neither follows."""
        lexer = self.lexer
        if lexer.at("."):
            field = Literal(lexer.field())
            lexer.advance()
            return field
        if not lexer.at("["):
            return None
        lexer.advance()
        start = lexer.start
        key = None if lexer.at(":") else self.expression()
        if key is None or lexer.at(":"):
            lexer.fail("there are no slices")
        if isinstance(key, Literal) and (isinstance(key.value, bool) or not isinstance(key.value, int | str)):
            lexer.fail("an index is an integer or a string", offset=start)
        self._expect("]", "the [ is not closed")
        return key

    def _primary(self) -> Expr:
        lexer = self.lexer
        start = lexer.start
        if lexer.kind == "string":
            text = lexer.string()
            self._check_quoted()
            lexer.advance()
            return Literal(text)
        if lexer.kind == "keyword" and lexer.text in _CONSTANTS:
            constant = Literal(_CONSTANTS[lexer.text])
            lexer.advance()
            return constant
        if lexer.at("("):
            lexer.advance()
            tree = self.expression()
            self._expect(")", "the ( is not closed")
            return tree
        if lexer.at("["):
            lexer.advance()
            items = self._sequence("]", "the [ is not closed")
            return MakeList(tuple(items))
        if lexer.at("{"):
            if self.braces and self.source.startswith("{", lexer.end):
                return self._braced(start)
            lexer.advance()
            return self._object()
        raise self.unexpected()

    def _braced(self, start: int) -> Expr:
        inner = Parser(self.source, start + 2, self.names)
        inner.nesting, inner.operators = self.nesting, self.operators
        tree = inner.whole()
        self.lexer.end = inner.close(start)
        self.lexer.advance()
        return tree

    def _object(self) -> Expr:
        lexer = self.lexer
        fields: list[tuple[str, Expr]] = []
        seen: set[str] = set()
        while not lexer.at("}"):
            if lexer.kind != "string":
                lexer.fail("a key of an object is a string in quotes")
            key = lexer.string()
            self._check_quoted()
            if key in seen:
                lexer.fail(f"the key {shorten(key)} stands twice")
            seen.add(key)
            lexer.advance()
            self._expect(":", "a colon is missing after the key")
            fields.append((key, self.expression()))
            if not lexer.at(","):
                break
            lexer.advance()
        self._expect("}", "the { is not closed")
        return MakeObject(tuple(fields))

    def _sequence(self, closing: str, reason: str) -> list[Expr]:
        """Expressions between commas up to `closing`; a trailing comma is allowed."""
        items: list[Expr] = []
        while not self.lexer.at(closing):
            items.append(self.expression())
            if not self.lexer.at(","):
                break
            self.lexer.advance()
        self._expect(closing, reason)
        return items

    def _call(self, name: str, start: int) -> Expr:
        if name not in ARITY:
            self.lexer.fail(
                f"there is no function {shorten(name)}",
                offset=start,
                nearest=nearest(name, ARITY),
                help="Functions: " + " ".join(sorted(ARITY)) + ".",
            )
        self.lexer.advance()
        arguments = tuple(self._sequence(")", "the ( is not closed"))
        least, most = ARITY[name]
        if len(arguments) < least or (most is not None and len(arguments) > most):
            wanted = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
            self.lexer.fail(f"{name}() takes {wanted} arguments, not {len(arguments)}", offset=start)
        return Call(name, arguments)

    def _level(self) -> int | None:
        lexer = self.lexer
        return _LEVELS.get(lexer.text) if lexer.kind in ("op", "keyword") else None

    def _operator(self) -> str:
        lexer = self.lexer
        op, end = lexer.text, lexer.end
        lexer.advance()
        if op in ("*", "/") and lexer.at(op) and lexer.start == end:
            lexer.fail(f"there is no operator {op}{op}", offset=end - 1)
        if op == "not":
            self._expect("in", "`not` between two operands must be `not in`")
            return "not in"
        return op

    def _check_quoted(self) -> None:
        if self.braces and "{{" in self.lexer.text:
            self.lexer.fail("a template inside quotes", help="Write it without quotes: {{a}} == 'b'.")

    def _expect(self, text: str, reason: str) -> None:
        if not self.lexer.at(text):
            if self.lexer.kind == "end":
                self.lexer.fail(reason)
            self.unexpected(reason)
        self.lexer.advance()

    def _too_deep(self, offset: int | None = None) -> Never:
        self.lexer.fail(f"the expression is nested more than {MAX_DEPTH} deep", offset=offset)

    def unexpected(self, reason: str | None = None) -> Never:
        """Refuse the current token."""
        lexer = self.lexer
        if lexer.kind == "end":
            lexer.fail(reason or "the expression ends too early")
        shown = f"unexpected {shorten(lexer.text)}"
        help = None
        if lexer.kind == "keyword" and lexer.text == "not":
            help = "`not` between two operands must be `not in`."
        elif lexer.kind == "name" and lexer.text in ("is", "lambda", "for"):
            help = "Compare with ==." if lexer.text == "is" else f"There is no {lexer.text} in this language."
        elif lexer.at("{") or lexer.at("}"):
            help = "A literal {{ is written {{{{."
        lexer.fail(f"{reason}: {shown}" if reason else shown, help=help)


def _static(key: Literal) -> Key:
    assert isinstance(key.value, int | str)
    return key.value


def _chain(level: int, first: Expr, ops: tuple[str, ...], rest: tuple[Expr, ...]) -> Expr:
    if level in (_OR, _AND):
        return Logic(ops[0], (first, *rest))
    if level == _COMPARE:
        return Compare(first, ops, rest)
    return Arithmetic(first, ops, rest)
