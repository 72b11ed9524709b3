"""How a component ends."""

import pytest

from components.step import run_step


def test_ctrl_c_ends_with_one_sentence(capsys, monkeypatch):
    monkeypatch.setattr("components.step._end_with_driver", lambda: None)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_step(interrupted)

    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted; run the same command to resume\n"
