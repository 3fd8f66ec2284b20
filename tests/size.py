"""Lines of code by room, each with its budget: `python -m tests.size`; exit 1 where a room has outgrown it.

A line of code is one that holds more than a docstring, a comment or nothing. A budget is raised in the commit that needs the
lines, with a word on why they are worth it.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "emonet_scratch"

#: Files and folders of each room, and the most lines of code that it may have.
ROOMS = {
    "ground": ("__init__.py __main__.py version.py errors.py emotions.py choices.py files.py pickles.py weights.py "
               "differences.py shards.py", 693),
    "core": ("backend.py dispatch.py losses.py optim.py lda.py gradcheck.py layers models", 1500),
    "watch": ("watch", 195),
    "kernels": ("kernels", 1041),          # bf16 on the CPU, and what each precision rounds
    "data": ("data", 3583),
    "training": ("training", 1806),
    "studies": ("studies", 890),            # rows of others in compare's table, intervals over groups
    "classics": ("classics", 632),          # ten models that the paper stands on; 900 is the most that they may have
    "explain": ("explain", 964),
    "export": ("export", 198),
    "command line": ("cli", 810),
    "testing": ("testing", 140),
}
MOST = 12452                # of all rooms together; pages are 1,130 of them, classics 632, ranks 467; 9,000 is the aim

NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def lines_of_code(source: str) -> int:
    """How many lines of this text hold code."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node, False):
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


def files_of(places: str) -> list[Path]:
    """The Python files of a room."""
    found = [PACKAGE / place for place in places.split()]
    return [file for place in found for file in ([place] if place.suffix else sorted(place.rglob("*.py")))]


def sizes() -> dict[str, tuple[int, int]]:
    """{room: (lines of code, budget)}; ValueError for a file that is in no room, or in two."""
    listed = [file for places, _ in ROOMS.values() for file in files_of(places)]
    if sorted(listed) != sorted(PACKAGE.rglob("*.py")):
        raise ValueError(f"in no room, or in two: {sorted(set(listed) ^ set(PACKAGE.rglob('*.py')))}")
    return {room: (sum(lines_of_code(file.read_text(encoding="utf-8")) for file in files_of(places)), budget)
            for room, (places, budget) in ROOMS.items()}


def main() -> int:
    """Print the table."""
    table = sizes()
    table["package"] = sum(lines for lines, _ in table.values()), MOST
    for room, (lines, budget) in table.items():
        print(f"{room:14}{lines:6,} of {budget:6,}{'  too many' if lines > budget else ''}")
    return int(any(lines > budget for lines, budget in table.values()))


if __name__ == "__main__":
    sys.exit(main())
