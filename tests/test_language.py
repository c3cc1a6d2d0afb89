"""Code, documents, tests and file names use one plain American English vocabulary; see CONTRIBUTING.md."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUFFIXES = (".py", ".md", ".cfg", ".toml", ".yml", ".yaml", ".cff", ".ipynb", ".html", ".css", ".js", "")
INSTEAD = {  # pattern, matched without regard to case -> what to write
    r"pictures?": "image",
    r"(mend|repair)(s|ed|ing)?": "fix, ablation step",
    r"(rung|climb|ledger)s?": "ablation step, ablation",
    r"stands? in|stand[-_]in": "fallback data set, small backbone",
    r"guard(s|ed|ing)?": "check, input check",
    r"digests?": "checksum",
    r"anew": "again, reset, rebuild",
    r"alike|of its own": "identical, separate",
    r"so many|at one go|for nothing|be had": "a number, at once, unnecessarily, available",
    r"goes on|go on|went on": "resumes, continues",
    r"tells?|told": "reports, shows",
    r"wants?|wanted": "requires, expected",
    r"promise(s|d)?": "guarantee, or the fact itself",
    r"(colou|favou|behaviou|neighbou)r\w*": "American spelling",
    r"\w*(normal|initial|optim|recogn|organ|summar|serial|vector|quant|general|regular)is(e|es|ed|ing|ation)": "-ize",
    r"(cent|fib)re(s|d)?|grey|analys(e|ed|es)|(label|model|travel|cancel)l(ed|ing)": "American spelling",
}
ALLOWED = (  # removed before the search
    r"\(stand-in for\b",  # the display name of the fallback data set
    r"\b(file_|hex)?digest\(",  # hashlib
    r"\.tell\(\)",
    r"transfer[_ ]guard",  # of JAX
    r"--mode[= ]ledger|[`'\"]ledger[`'\"]|`repairs`",  # the alias of --mode ablation, and the old name of its key
)


def violations(text: str) -> list[str]:
    for pattern in ALLOWED:
        text = re.sub(pattern, " ", text)
    return [
        f"{match.group()} (write: {advice})"
        for pattern, advice in INSTEAD.items()
        for match in re.finditer(rf"(?<![a-z])({pattern})(?![a-z])", text, re.IGNORECASE)
    ]


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    files = [Path(name) for name in listed.stdout.splitlines()]
    if listed.returncode:  # a source archive, without git
        folders = ("benchmarks", "cifar_jax", "configs", "docs", "notebooks", "tests")
        files = [path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    skipped = (Path("LICENSE"), Path("tests/test_language.py"))
    return [str(path) for path in files if path.suffix in SUFFIXES and path not in skipped and (ROOT / path).exists()]


def test_violations_are_seen():
    assert len(violations("The Picture of a ledger_cnn tells; behaviour normalised anew.")) == 6
    assert not violations("shapes (stand-in for cifar10); sha.hexdigest(); alias `ledger`; amend, images, analysis")


def test_one_vocabulary():
    lines = [
        f"{path}:{number}: {violation}"
        for path in tracked()
        for number, line in enumerate([path, *(ROOT / path).read_text().splitlines()])
        for violation in violations(line)
    ]
    assert not lines, "\n" + "\n".join(lines)
