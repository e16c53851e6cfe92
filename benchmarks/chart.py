"""A bar chart as SVG, for light and dark backgrounds."""

from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 760, 130, 70
BAR, GAP, TITLE, TOP = 14, 4, 30, 46
# Times openai. Longer bars are cut; their label has the value.
MAX_RATIO = 3.0
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 } .note { fill: #59636e }
  .peer { fill: #8c959f } .ours { fill: #0969da } .one { stroke: #cf222e; stroke-dasharray: 3 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .note { fill: #9198a1 }
    .peer { fill: #6e7681 } .ours { fill: #4493f8 } .one { stroke: #f85149 }
  }
"""


def chart(groups):
    """Return the chart; `groups` are titles with bars, each a name and a ratio to openai."""
    at, elements = TOP, []
    for title, bars in groups:
        elements.append(f'<text class="title" x="0" y="{at + 12}">{escape(title)}</text>')
        at += TITLE - 10
        for name, ratio in bars:
            elements += _bar(name, ratio, at)
            at += BAR + GAP
        at += TITLE - 16
    one = LEFT + _length(1)
    caption = (
        "CPU as a multiple of openai's, shorter is better; the dashed line is openai;"
        f" bars beyond {MAX_RATIO:g} are cut"
    )
    size = f'viewBox="0 0 {WIDTH} {at}" width="{WIDTH}" height="{at}"'
    line = f'x1="{one:.1f}" x2="{one:.1f}" y1="{TOP - 12}" y2="{at - 10}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
        f"<title>{caption}</title>\n<style>{STYLE}</style>\n"
        f'<text class="note" x="0" y="16">{caption}</text>\n'
        + "\n".join(elements)
        + f'\n<line class="one" {line}/>\n</svg>\n'
    )


def _bar(name, ratio, top):
    kind = "ours" if name.startswith("majordomo") else "peer"
    length = _length(min(ratio, MAX_RATIO))
    yield f'<text x="{LEFT - 8}" y="{top + 11}" text-anchor="end">{escape(name)}</text>'
    yield f'<rect class="{kind}" x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>'
    yield f'<text x="{LEFT + length + 6:.1f}" y="{top + 11}">{ratio:.2f}</text>'


def _length(ratio):
    return ratio / MAX_RATIO * (WIDTH - LEFT - RIGHT)
