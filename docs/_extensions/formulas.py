"""Formulas as SVG, drawn by ziamath when the site is built: no script, no font and no network is needed to read them."""

import re
from html import escape

import ziamath
from docutils.nodes import SkipNode

SIZE = 17  # pixels; the text's own size is 16
SYMBOL = re.compile(r'<symbol id="([^"]+)".*?</symbol>', re.DOTALL)


def plain(latex: str) -> str:
    """LaTeX as ziamath knows it: aligned equations as an array of right and left columns in turn."""
    return latex.replace(r"\begin{aligned}", r"\begin{array}{rlrlrl}").replace(
        r"\end{aligned}", r"\end{array}"
    )


def once(svg: str, drawn: set[str]) -> str:
    """A glyph is a symbol, which the page's first formula with it defines for all others."""

    def first(symbol: re.Match) -> str:
        new = symbol[1] not in drawn
        drawn.add(symbol[1])
        return symbol[0] if new else ""

    return SYMBOL.sub(first, svg)


def drawing(translator, node, *, inline: bool) -> str:
    latex = node.astext().strip()
    formula = ziamath.Latex(plain(latex), size=SIZE, color="currentColor", inline=inline)
    translator.glyphs = getattr(translator, "glyphs", set())
    attributes = f'role="img" aria-label="{escape(latex)}" style="vertical-align: {formula.getyofst():.2f}px"'
    return once(formula.svg(), translator.glyphs).replace("<svg ", f"<svg {attributes} ", 1)


def in_line(translator, node):
    translator.body.append(f'<span class="math">{drawing(translator, node, inline=True)}</span>')
    raise SkipNode


def displayed(translator, node):
    translator.body.append(f'<div class="math">{drawing(translator, node, inline=False)}</div>')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("formulas", (in_line, None), (displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
