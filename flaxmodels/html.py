"""HTML tables for notebooks."""

import html
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Returns an HTML table; the text of every cell is escaped.

    Args:
        header: Titles of the columns; an empty sequence omits the header row.
        rows: Rows of cells.
        caption: Text above the table.

    Example:
        >>> print(table(["name", "value"], [["loss", "< 0.1"]], caption="run"))
        <table><caption>run</caption>
        <tr><th>name</th><th>value</th></tr>
        <tr><td>loss</td><td>&lt; 0.1</td></tr>
        </table>
    """
    lines = [f"<table>{f'<caption>{html.escape(caption)}</caption>' if caption else ''}"]
    lines += [_row("th", header)] if header else []
    lines += [_row("td", row) for row in rows]
    return "\n".join([*lines, "</table>"])


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
