"""Settings: every value against its range, every message word for word, presets, and layers over one another."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from options_table import tables

from rnn_cli.options import by_section, of_settings, read_config
from rnn_lab.settings import PRESETS, Settings, merge, named, option, parse_duration, setting
from rnn_plugins.errors import UserError


def message(**values: object) -> str:
    with pytest.raises(UserError) as caught:
        Settings(**values)  # type: ignore[arg-type]
    return str(caught.value)


LEVELS = "it must be char, byte, word, or bpe:N with a number of symbols from 2 to 65,536, such as bpe:1000"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"hidden_size": 0}, "--hidden-size is 0; it must be at least 1"),
        ({"hidden_size": 10**400}, f"--hidden-size is {10**400}; it must be at most 1,000,000"),
        ({"hidden_size": 2.5}, "--hidden-size is 2.5; it must be a whole number"),
        ({"hidden_size": True}, "--hidden-size is True; it must be a whole number"),
        ({"hidden_size": "4"}, "--hidden-size is '4'; it must be a whole number"),
        ({"num_layers": 0}, "--num-layers is 0; it must be at least 1"),
        ({"embedding_size": -1}, "--embedding-size is -1; it must be at least 0"),
        ({"seq_length": 0}, "--seq-length is 0; it must be at least 1"),
        ({"batch_size": 0}, "--batch-size is 0; it must be at least 1"),
        ({"steps": -1}, "--steps is -1; it must be at least 0"),
        ({"epochs": -0.5}, "--epochs is -0.5; it must be at least 0"),
        ({"epochs": float("inf")}, "--epochs is inf; it must be at most 1,000,000,000"),
        ({"epochs": float("nan")}, "--epochs is nan; it must be at least 0"),
        ({"epochs": 10**400}, "--epochs is inf; it must be at most 1,000,000,000"),
        ({"max_time": -1}, "--max-time is -1; it must be at least 0"),
        ({"max_time": "soon"}, "--max-time is 'soon'; write it as 20s, 5m, 2h or 1h30m"),
        ({"valid_every": -1}, "--valid-every is -1; it must be at least 0"),
        ({"log_every": 0}, "--log-every is 0; it must be at least 1"),
        ({"patience": -1}, "--patience is -1; it must be at least 0"),
        ({"seed": -1}, "--seed is -1; it must be at least 0"),
        ({"dropout": 1.0}, "--dropout is 1; it must be at least 0 and below 1"),
        ({"dropout": float("nan")}, "--dropout is nan; it must be at least 0 and below 1"),
        ({"valid_fraction": -0.1}, "--valid-fraction is -0.1; it must be at least 0 and below 1"),
        ({"learning_rate": 0.0}, "--learning-rate is 0; it must be above 0"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan; it must be above 0"),
        ({"variational_dropout": "yes"}, "--variational-dropout is 'yes'; it must be true or false"),
        ({"level": "line"}, f"--level is 'line'; {LEVELS}"),
        ({"dtype": "float16"}, "--dtype is 'float16'; it must be one of float32, float64"),
        (
            {"backend": "torch"},
            "--backend is 'torch'; it must be one of auto, reference, numpy, compiled",
        ),
        ({"cell": 3.0j}, "--cell is 3j; it must be text"),
        ({"task": 3.0j}, "--task is 3j; it must be text"),
        ({"cell_option": ["a"]}, "--cell-option is ['a']; it must be a table"),
        ({"files": [1]}, "FILES is [1]; it must be a list of texts"),
        (
            {"grad_clip": "hard"},
            "--grad-clip is 'hard'; it must be the largest norm of a gradient, such as 5, "
            "or element:5 for the largest element, or 0 for no clipping",
        ),
        (
            {"grad_clip": "element:-1"},
            "--grad-clip is 'element:-1'; it must be the largest norm of a gradient, such as 5, "
            "or element:5 for the largest element, or 0 for no clipping",
        ),
        (
            {"optimizer": "adm"},
            "there is no optimizer called 'adm'. Did you mean 'adam'? It takes sgd, rmsprop, adagrad, adam, adamw",
        ),
        (
            {"optimizer": "sgd:mass=1"},
            "--optimizer is 'sgd:mass=1': 'mass=1' is not understood; sgd takes momentum=0.0, nesterov=False",
        ),
        (
            {"optimizer": "sgd:momentum=much"},
            "--optimizer is 'sgd:momentum=much': momentum is 'much'; it must be a number",
        ),
        (
            {"optimizer": "sgd:nesterov=2"},
            "--optimizer is 'sgd:nesterov=2': nesterov is '2'; it must be true or false",
        ),
        (
            {"optimizer": "sgd:nesterov=true"},
            "--optimizer is 'sgd:nesterov=true': Nesterov's step looks ahead along the momentum, which is 0; "
            "give a momentum, such as 0.9",
        ),
        (
            {"schedule": "cosin"},
            "there is no schedule called 'cosin'. Did you mean 'cosine'? "
            "It takes constant, exponential, cosine, linear",
        ),
        (
            {"schedule": "constant:decay=1"},
            "--schedule is 'constant:decay=1': 'decay=1' is not understood; constant takes no parameters",
        ),
        ({"schedule": "cosine:final=nan"}, "--schedule is 'cosine:final=nan': final is 'nan'; it must be a number"),
        (
            {"schedule": "exponential:every=0"},
            "--schedule is 'exponential:every=0': every is 0; it must be above 0",
        ),
        (
            {"schedule": "exponential:decay=2"},
            "--schedule is 'exponential:decay=2': the decay of the learning rate is 2.0; "
            "it must be above 0 and at most 1",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_told(values: dict[str, object], sentence: str) -> None:
    assert message(**values) == sentence


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("20s", 20), ("5m", 300), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("1m5s", 65), (" 5M ", 300)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert Settings(max_time=text).max_time == seconds  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "s", "5 m 3", "-5s", "5d", "1m1h", "nan"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UserError):
        parse_duration(text)


def test_numbers_of_a_configuration_file_fit_where_text_is_meant() -> None:
    assert Settings(grad_clip=5).clipping() == (5.0, 0.0)  # type: ignore[arg-type]
    assert Settings(grad_clip=0.25).clipping() == (0.25, 0.0)  # type: ignore[arg-type]
    assert Settings(epochs=3).epochs == 3.0
    assert Settings(files="a.txt").files == ("a.txt",)  # type: ignore[arg-type]
    assert Settings(files=["a", "b"]).files == ("a", "b")  # type: ignore[arg-type]


def test_clipping() -> None:
    assert Settings(grad_clip="0").clipping() == (0.0, 0.0)
    assert Settings(grad_clip="norm:2").clipping() == (2.0, 0.0)
    assert Settings(grad_clip="element:5").clipping() == (0.0, 5.0)


def test_settings_come_back_from_json() -> None:
    settings = Settings(files=("a.txt",), cell="lstm", cell_option={"forget_bias": 2}, max_time=20.0, seed=3)
    assert Settings.from_json(settings.to_json()) == settings
    with pytest.raises(UserError) as caught:
        Settings.from_json({"hiden_size": 3})
    assert str(caught.value) == "there is no setting called 'hiden_size'. Did you mean 'hidden_size'?"


def test_how_long_a_run_is() -> None:
    assert Settings().total_steps(490) == 4900
    assert Settings().total_steps(1) == 200
    assert Settings(epochs=2.5).total_steps(3) == 8
    assert Settings(epochs=2, steps=7).total_steps(490) == 7
    assert Settings(epochs=0).total_steps(490) == 0


def test_how_often_it_is_validated() -> None:
    assert [Settings().steps_between_validations(n) for n in (1, 8, 62, 100, 490, 5000)] == [20, 20, 62, 100, 490, 1000]
    assert [Settings(steps=steps).steps_between_validations(8) for steps in (3, 200, 900, 5000)] == [8, 20, 90, 100]
    for steps_per_epoch in range(1, 1001):
        assert Settings().total_steps(steps_per_epoch) // Settings().steps_between_validations(steps_per_epoch) == 10
    assert Settings(valid_every=3).steps_between_validations(490) == 3


def rates(schedule: str, total: int, steps_per_epoch: int, steps: list[int]) -> list[float]:
    rate = Settings(schedule=schedule).make_schedule(1.0, total, steps_per_epoch)
    return [rate(step) for step in steps]


def test_schedules_count_in_epochs_and_steps() -> None:
    assert rates("constant", 100, 10, [0, 99]) == [1, 1]
    assert rates("exponential:decay=0.5,every=2,after=1", 100, 10, [0, 10, 29, 30, 50]) == [1, 1, 1, 0.5, 0.25]
    assert rates("linear:warmup=4,final=0.5", 14, 10, [0, 3, 4, 9, 14]) == [0.25, 1, 1, 0.75, 0.5]
    assert np.allclose(rates("cosine", 10, 10, [0, 5, 10]), [1, 0.5, 0])
    assert rates("cosine:warmup=50", 10, 10, [9]) == [0.2 * 5]  # a warm-up longer than the run is as long as the run


def test_the_rate_of_char_rnn_falls_when_ten_epochs_are_over() -> None:
    preset = Settings(**PRESETS["char-rnn"])
    rate = preset.make_schedule(preset.learning_rate or 0, preset.total_steps(100), 100)
    # char-rnn: at the end of each epoch from the tenth on, the rate is multiplied by 0.97.
    assert [rate(step) for step in (0, 999, 1000, 1099, 1100)] == [2e-3, 2e-3, 2e-3 * 0.97, 2e-3 * 0.97, 2e-3 * 0.97**2]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_valid_and_its_page_says_what_is_in_it(name: str) -> None:
    settings = Settings(**PRESETS[name])
    assert settings.cell == "lstm"
    page = (Path(__file__).parents[1] / "docs" / ("recipes.md" if name == "best" else "command-line.md")).read_text()
    assert f"--preset {name}`" in page
    if name == "best":
        assert f"`{' '.join(f'{option(key)} {value}' for key, value in PRESETS[name].items())}`" in page


def test_later_layers_win() -> None:
    assert merge({"epochs": 3, "cell": "gru"}, {}, {"epochs": 5}) == {"epochs": 5, "cell": "gru"}
    assert merge({"cell_option": {"a": 1, "b": 1}}, {"cell_option": {"b": 2}}) == {"cell_option": {"a": 1, "b": 2}}


def test_another_cell_leaves_the_options_of_the_one_before() -> None:
    preset = PRESETS["char-rnn"]
    assert "cell_option" not in merge(preset, {"cell": "gru"})
    assert merge(preset, {"cell": "lstm"})["cell_option"] == {"second_bias": True}
    assert merge(preset, {"cell": "gru", "cell_option": {"reset": "after"}})["cell_option"] == {"reset": "after"}
    assert preset["cell_option"] == {"second_bias": True}  # the preset itself is as it was


def test_epochs_put_steps_of_an_earlier_layer_aside() -> None:
    assert Settings(**merge({"steps": 5}, {"epochs": 2})).total_steps(10) == 20
    assert Settings(**merge({"epochs": 2}, {"steps": 5})).total_steps(10) == 5
    assert Settings(**merge({"epochs": 2, "steps": 5})).total_steps(10) == 5


@given(
    st.dictionaries(
        st.sampled_from(sorted(Settings().to_json())),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(),
            st.lists(st.text()),
            st.dictionaries(st.text(), st.text()),
        ),
    )
)
def test_any_value_is_taken_or_told(values: dict[str, object]) -> None:
    try:
        settings = Settings(**values)  # type: ignore[arg-type]
    except UserError:
        return  # any other error fails
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize("module", ["rnn_lab.settings", "rnn_cli.options", "rnn_cli.train", "rnn_cli.main"])
def test_options_are_known_without_numpy(module: str) -> None:
    program = f"import sys, {module}; sys.exit(not {{'numpy', 'rich', 'filelock'}}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_warm_up_takes_no_negative_number_of_steps() -> None:
    with pytest.raises(UserError) as refused:
        Settings(schedule="linear:warmup=-1")
    assert str(refused.value) == "--schedule is 'linear:warmup=-1': warmup is -1; it must be at least 0"


# One source --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class More(Settings):
    """The settings of a program with more options."""

    leak: float = setting(
        0.25, "Rate of leakage.", "Network", range="[0, 1)", changeable=True, shared=True, aliases=("leaky",)
    )
    share: Literal["none", "all"] = setting("none", "Weights to share.", "Network", inherited=True)
    gain: dict[str, float] = setting({}, "Gain of a gate.", "Training", metavar="GATE=X", example="forget=1", of="cell")


def test_a_setting_is_one_field(tmp_path: Path) -> None:
    """The option, its help, the configuration file, the check, the lists and the documentation follow from it."""
    options = by_section(of_settings(More))
    leak, share, gain = (next(o for o in options if o.name == name) for name in ("leak", "share", "gain"))
    assert (leak.opts, leak.group, leak.aliases) == (["--leak"], "Network", ("leaky",))
    context = click.Context(click.Command("train"))
    assert leak.get_help_record(context) == ("--leak X", "Rate of leakage.  [default: 0.25]")
    assert share.get_help_record(context) == ("--share [none|all]", "Weights to share.  [default: none]")
    assert gain.get_help_record(context) == ("--gain GATE=X", "Gain of a gate.")
    (tmp_path / "c.toml").write_text("leak = 0.5\n[gain]\nforget = 2\n")
    config = read_config(str(tmp_path / "c.toml"), options=options)
    settings = More(**config)
    assert (settings.leak, settings.gain, settings.hidden_size) == (0.5, {"forget": 2}, 256)
    assert More.from_json(settings.to_json()) == settings
    assert "gain" not in merge(config, {"cell": "lstm"}, cls=More)
    with pytest.raises(UserError) as caught:
        More(leak=1)
    assert str(caught.value) == "--leak is 1; it must be at least 0 and below 1"
    assert "leak" in named("changeable", More)
    assert "leak" in named("shared", More)
    assert "share" in named("inherited", More)
    assert "| `--leak` | `X` | 0.25 | Rate of leakage. |" in tables(More)


def test_what_may_change_and_what_is_taken_over() -> None:
    assert set(named("changeable")) == {
        "files", "epochs", "steps", "max_time", "patience", "valid_every", "log_every", "backend", "flow",
        "flow_every", "track", "valid", "test",
    }  # fmt: skip
    assert set(named("inherited")) == {
        "task", "task_option", "cell", "cell_option", "ablate", "hidden_size", "num_layers", "embedding_size", "level",
        "tie",
    }  # fmt: skip


# Options behind a name ---------------------------------------------------------------------------------------


def test_options_behind_a_cell_or_a_task_are_settings_of_their_own() -> None:
    settings = Settings(
        cell="lstm:forget_bias=3,second-bias=true", cell_option={"forget_bias": 3}, task="a.py:T:pool=mean"
    )
    assert (settings.cell, settings.cell_option) == ("lstm", {"forget_bias": 3, "second_bias": "true"})
    assert (settings.task, settings.task_option) == ("a.py:T", {"pool": "mean"})
    assert Settings(cell="./my.py:Mine").cell == "./my.py:Mine"


def test_options_behind_a_cell_are_merged_as_others_are() -> None:
    preset = PRESETS["char-rnn"]
    assert merge(preset, {"cell": "lstm:forget_bias=3"})["cell_option"] == {"second_bias": True, "forget_bias": "3"}
    assert merge(preset, {"cell": "gru:reset=after"})["cell_option"] == {"reset": "after"}
    assert merge({"cell": "lstm:forget_bias=3"}, {"cell_option": {"forget_bias": "4"}}) == {
        "cell": "lstm",
        "cell_option": {"forget_bias": "4"},
    }


def test_options_of_a_task_with_names_of_their_own_are_merged_with_the_others() -> None:
    preset = PRESETS["char-rnn"]
    assert merge(preset)["task_option"] == {"seq_length": 50, "valid_fraction": 0.05}
    assert Settings(**merge(preset, {"task_option": {"seq_length": "7"}})).task_option["seq_length"] == "7"
    assert Settings(**merge(preset, {"seq_length": 9})).task_option["seq_length"] == 9
    assert Settings(**merge({"task_option": {"level": "word"}}, {"level": "byte"})).task_option == {"level": "byte"}
    assert Settings(level="word", task="language-model:seq_length=7").task_option == {
        "level": "word",
        "seq_length": "7",
    }


def test_a_name_that_is_the_default_leaves_the_options_of_the_layers_before() -> None:
    assert merge({"cell_option": {"reset": "after"}}, {"cell": "gru"})["cell_option"] == {"reset": "after"}
    assert "cell_option" not in merge({"cell_option": {"reset": "after"}}, {"cell": "lstm"})
    assert merge({"seq_length": 50}, {"task": "language-model"})["task_option"] == {"seq_length": 50}
    assert "task_option" not in merge({"seq_length": 50}, {"task": "names.py"})


def test_an_option_that_is_given_twice_with_two_values() -> None:
    assert message(cell="lstm:forget_bias=3", cell_option={"forget_bias": 2}) == (
        "the cell lstm:forget_bias=3 and --cell-option forget_bias=2 contradict each other: leave one out"
    )
    assert message(task="x:pool=mean", task_option={"pool": "last"}) == (
        "the task x:pool=mean and --task-option pool=last contradict each other: leave one out"
    )
    assert message(level="word", task_option={"level": "char"}) == (
        "--level word and --task-option level=char contradict each other: leave one out"
    )
    assert message(level="line", task_option={"level": "char"}) == (f"--level is 'line'; {LEVELS}")
    assert message(cell="lstm:forget_bias=3,x") == (
        "'lstm:forget_bias=3,x': 'x' is not an option; use NAME:KEY=VALUE, such as lstm:forget_bias=2"
    )
