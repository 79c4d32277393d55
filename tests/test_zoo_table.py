"""docs/zoo.md: its table is what scripts/zoo.py prints of the committed results."""

from pops.support.zoo import published, table

from conftest import ROOT, command


def test_the_page_has_the_table_that_the_command_prints():
    result = command("zoo.py")
    assert result.returncode == 0 and result.stdout.strip() == table(), result.stderr
    assert table() in (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert len(table().splitlines()) == 2 + len(published()) and table().count("| refused |") == 3
