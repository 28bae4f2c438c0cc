"""The options of ``rnn train``: other programs' names, configuration files, help, completion, documentation."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_line import SMALL, refused, settle, train, trained

from rnn_cli import completion
from rnn_cli.main import rnn
from rnn_cli.options import ALIASES, MEANINGLESS, ON_THE_LINE, OPTIONS, translate
from rnn_lab.runs import Run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("-rnn_size 128 -num_layers 2", "--hidden-size 128 --num-layers 2"),
        ("-rnn_size=128", "--hidden-size=128"),
        ("--seq_length 50 -batch-size 50", "--seq-length 50 --batch-size 50"),
        ("-data_dir data/tiny -model lstm", "data/tiny --cell lstm"),
        ("--data=books --max-epochs 3", "books --epochs 3"),
        ("-learning_rate_decay 0.97", "--schedule exponential:after=9,decay=0.97"),
        ("-learning_rate_decay_after 5 -learning_rate_decay 0.9", "--schedule exponential:after=4,decay=0.9"),
        ("-learning_rate_decay 0.9 -learning_rate_decay_after 5", "--schedule exponential:after=4,decay=0.9"),
        ("-lr_decay_every 3", "--schedule exponential:decay=0.5,every=3"),
        ("-lr_decay_factor 0.7", "--schedule exponential:every=5,decay=0.7"),
        ("-decay_rate 0.95", "--optimizer rmsprop:decay=0.95"),
        ("a -decay_rate 0.9 -- -b", "--optimizer rmsprop:decay=0.9 a -- -b"),
        ("--emsize 3 --nhid 4 --nlayers 5", "--embedding-size 3 --hidden-size 4 --num-layers 5"),
        ("--lr 6", "--learning-rate 6"),
        ("--name= --lr=6", "--name= --learning-rate=6"),
        ("--clip 0.25 --bptt 35 --log-interval 9", "--grad-clip 0.25 --seq-length 35 --log-every 9"),
        ("-wordvec_size 64 -checkpoint_every 7", "--embedding-size 64 --valid-every 7"),
        ("-val_frac .05 -eval_val_every 3 -print_every 4", "--valid-fraction .05 --valid-every 3 --log-every 4"),
        ("-name -model", "--name -model"),  # the value of an option is left as it is
        ("--quiet -model", "--quiet --cell"),
        ("-x -1 - --no_such=3", "-x -1 - --no_such=3"),
        ("--lr", "--learning-rate"),
        ("", ""),
    ],
)  # fmt: skip
def test_options_of_other_programs(theirs: str, ours: str) -> None:
    assert translate(theirs.split()) == ours.split()


SGD_TAKEN = "--lr is taken as in word_language_model, for plain SGD: --learning-rate 20 --optimizer sgd"
ADAM_TAKEN = "--lr is taken as --learning-rate 20 for Adam; word_language_model's is for SGD: --optimizer sgd"
ELEMENTS = "-grad_clip is taken as in char-rnn and torch-rnn: --grad-clip element:5"


@pytest.mark.parametrize(
    ("theirs", "ours", "notes"),
    [
        # PyTorch's word_language_model: train() takes p - lr * gradient, after clip_grad_norm_.
        ("--nhid 8 --lr 20", "--optimizer sgd --hidden-size 8 --learning-rate 20", [SGD_TAKEN]),
        ("--lr=20 --bptt 5", "--optimizer sgd --learning-rate=20 --seq-length 5", [SGD_TAKEN]),
        ("--nhid 8 --lr 20 --optimizer adam", "--hidden-size 8 --learning-rate 20 --optimizer adam", []),
        ("--lr 20", "--learning-rate 20", [ADAM_TAKEN]),
        ("--lr 0.002", "--learning-rate 0.002", []),
        ("--lr many", "--learning-rate many", []),
        ("--preset char-rnn --lr 20", "--preset char-rnn --learning-rate 20", []),
        ("--nhid 8 --clip 0.25", "--hidden-size 8 --grad-clip 0.25", []),
        # char-rnn and torch-rnn: grad_params:clamp(-grad_clip, grad_clip).
        ("-grad_clip 5", "--grad-clip element:5", [ELEMENTS]),
        ("-grad_clip=5", "--grad-clip=element:5", [ELEMENTS]),
        ("-grad_clip element:5", "--grad-clip element:5", []),
        # char-rnn-tensorflow and Keras (clipnorm) and nanoGPT: the norm.
        ("--grad_clip 5 --grad-clip 5", "--grad-clip 5 --grad-clip 5", []),
        # char-rnn: optim_state = {alpha = opt.decay_rate}.
        ("-decay_rate 0.95", "--optimizer rmsprop:decay=0.95", []),
    ],
)
def test_a_name_that_means_something_else_elsewhere_is_told(theirs: str, ours: str, notes: list[str]) -> None:
    told: list[str] = []
    assert translate(theirs.split(), told.append) == ours.split()
    assert told == notes


def test_a_name_with_two_meanings_is_refused() -> None:
    """In char-rnn-tensorflow: tf.assign(model.lr, args.learning_rate * (args.decay_rate ** e))."""
    for line in (["--decay_rate", "0.97"], ["--decay-rate=0.97"]):
        assert refused("fox.txt", *line) == (
            "--decay-rate has two meanings, of RMSprop in char-rnn (--optimizer rmsprop:decay=0.97), and of the "
            "learning rate per epoch in char-rnn-tensorflow (--schedule exponential:decay=0.97): give one of these "
            "options"
        )


def test_of_another_programs_folder_the_file_is_read_that_it_trains_on() -> None:
    for name in ("input.txt", "train.txt", "test.txt", "valid.txt"):
        Path("theirs").mkdir(exist_ok=True)
        Path("theirs", name).write_text(name * 60)
    told: list[str] = []
    assert translate(["-data_dir", "theirs"], told.append) == [os.path.join("theirs", "input.txt")]
    assert translate(["--data", "theirs"], told.append) == [os.path.join("theirs", "train.txt")]
    assert translate(["--data=books", "theirs"], told.append) == ["books", "theirs"]
    assert told == [
        f"of theirs only {file} is read, as --{name} has it elsewhere, and --valid-fraction of it is held out"
        for name, file in (("data-dir", "input.txt"), ("data", "train.txt"))
    ]


def test_what_was_taken_is_said_unless_all_is_quiet() -> None:
    line = ["fox.txt", *SMALL, "--lr", "20", "--nlayers", "1"]
    run, result = trained(*line)
    assert (run.settings.optimizer, run.settings.learning_rate) == ("sgd", 20.0)
    assert f"Note: {SGD_TAKEN}.\n" in result.stderr
    assert trained(*line, "--quiet")[1].stderr == ""


def test_every_alias_leads_to_an_option() -> None:
    names = {option.opts[0] for option in OPTIONS}
    assert {"--" + target for target in ALIASES.values()} <= names
    assert not {"--" + alias for alias in (*ALIASES, *MEANINGLESS)} & names


def test_char_rnns_own_command_line() -> None:
    run, _ = trained(
        *[
            "-data_dir",
            "fox.txt",
            "-rnn_size",
            "4",
            "-num_layers",
            "2",
            "-model",
            "lstm",
            "-learning_rate",
            "2e-3",
            "-learning_rate_decay",
            "0.97",
            "-learning_rate_decay_after",
            "10",
            "-decay_rate",
            "0.95",
            "-dropout",
            "0",
            "-seq_length",
            "5",
            "-batch_size",
            "5",
            "-max_epochs",
            "1",
            "-grad_clip",
            "5",
            "-val_frac",
            "0.05",
            "-seed",
            "123",
            "-print_every",
            "1",
            "-eval_val_every",
            "1000",
        ]
    )
    settings = run.settings
    assert (settings.cell, settings.num_layers, settings.hidden_size, settings.seed) == ("lstm", 2, 4, 123)
    assert (settings.schedule, settings.optimizer) == ("exponential:after=9,decay=0.97", "rmsprop:decay=0.95")
    assert settings.clipping() == (0.0, 5.0)


def test_cells_by_the_names_that_pytorch_gives_them() -> None:
    assert trained("fox.txt", *SMALL, "--model", "LSTM")[0].settings.cell == "lstm"
    assert trained("fox.txt", *SMALL, "--model", "RNN_TANH")[0].settings.cell == "rnn"


def test_options_of_a_cell_may_stand_behind_its_name() -> None:
    run, _ = trained("fox.txt", *SMALL, "--cell", "lstm:forget_bias=3", "--cell-option", "second_bias=true", "--quiet")
    assert run.settings.cell == run.manifest["cell"]["cell"] == "lstm"
    assert run.settings.cell_option == {"forget_bias": "3", "second_bias": "true"}
    assert trained("fox.txt", *SMALL, "--model", "LSTM:forget_bias=3", "--quiet")[0].settings.cell == "lstm"
    assert refused("fox.txt", "--cell", "lstm:forget_bias=3", "--cell-option", "forget_bias=2") == (
        "the cell lstm:forget_bias=3 and --cell-option forget_bias=2 contradict each other: leave one out"
    )
    assert refused("fox.txt", *SMALL, "--cell", "lstm:forgt_bias=3") == (
        "the cell 'lstm' has no option called 'forgt_bias'. Did you mean 'forget_bias'? "
        "Its options: forget_bias, chrono, second_bias, layer_norm"
    )
    assert train("--resume", run.name, "--cell", "lstm:forget_bias=3", "--steps", "13").exit_code == 0
    assert refused("--resume", run.name, "--cell", "lstm:forget_bias=2") == (
        "--cell-option is forget_bias=2, second_bias=true, and the run 'lstm-fox' has forget_bias=3, second_bias=true: "
        "leave it out, or start a new run without --resume"
    )


def test_options_of_a_task_may_be_given_in_three_ways() -> None:
    for words in (["--level", "word"], ["--task-option", "level=word"], ["--task", "language-model:level=word"]):
        run, _ = trained("fox.txt", *SMALL, *words, "--quiet")
        assert (run.settings.task, run.settings.task_option["level"]) == ("language-model", "word")
    assert refused("fox.txt", "--level", "word", "--task-option", "level=char") == (
        "--level word and --task-option level=char contradict each other: leave one out"
    )
    assert refused("fox.txt", "--task-option", "seq_length=0") == (
        "the task 'language-model' cannot be made: seq_length is 0; it must be at least 1"
    )
    assert refused("fox.txt", "--task-option", "seq=3") == (
        "the task 'language-model' has no option called 'seq'. Its options: seq_length, level, valid_fraction, "
        "unknown, tie, embedding_dropout"
    )
    assert refused("fox.txt", "--task-option", "dynamic=true") == (
        "the option 'dynamic' of the task 'language-model' is for rnn eval alone: leave it out"
    )


# Configuration files ----------------------------------------------------------------------------------------


def configured(text: str, *arguments: str) -> Run:
    Path("c.toml").write_text(text)
    return trained("--config", "c.toml", *arguments, "--quiet")[0]


def test_every_option_may_stand_in_a_configuration_file() -> None:
    values = {
        "level": '"word"', "valid-fraction": "0.2", "unknown": '"skip"', "cell": '"lstm"', "hidden-size": "3",
        "num-layers": "2", "embedding-size": "4", "dropout": "0.5", "variational-dropout": "true",
        "tie": "true", "embedding-dropout": "0.1", "weight-dropout": "0.2", "zoneout": "0.1",
        "dtype": '"float64"',
        "seq-length": "3", "batch-size": "2", "learning-rate": "1", "schedule": '"linear"', "optimizer": '"sgd"',
        "average": '"ema"',
        "grad-clip": "3", "epochs": "4", "steps": "2", "max-time": '"1h"', "patience": "9", "seed": "7",
        "name": '"mine"', "task": '"language-model"',
        "resume": '""', "init-from": '""', "preset": '"char-rnn"', "valid-every": "3", "log-every": "2",
        "quiet": "true", "backend": '"reference"',
        "json": "false", "progress": '"none"', "flow": "true", "flow-every": "5", "track": '"tensorboard"',
        "test": '["fox.txt"]',
    }  # fmt: skip
    in_tables = {"cell-option", "task-option", "ablate"}
    of_others = {"valid", "weighted"}  # not beside valid-fraction, and not of this task
    assert {option.opts[0][2:] for option in OPTIONS} == {*values, *in_tables, *of_others, *ON_THE_LINE}
    lines = ['files = ["fox.txt"]', *(f"{key} = {value}" for key, value in values.items())]
    run = configured("\n".join(lines) + "\n[cell-option]\nforget_bias = 3\n[ablate]\noutput = 1\n")
    assert run.name == "mine"
    s = run.settings
    assert s.task_option == {
        "level": "word", "valid_fraction": 0.2, "unknown": "skip", "seq_length": 3, "tie": True,
        "embedding_dropout": 0.1,
    }  # fmt: skip
    assert (s.cell, s.hidden_size) == ("lstm", 3)
    assert (s.num_layers, s.embedding_size, s.dropout, s.variational_dropout, s.dtype) == (2, 4, 0.5, True, "float64")
    assert (s.weight_dropout, s.zoneout, s.average) == (0.2, 0.1, "ema")
    assert (s.batch_size, s.learning_rate, s.schedule, s.optimizer) == (2, 1.0, "linear", "sgd")
    assert (s.grad_clip, s.epochs, s.steps, s.max_time, s.patience, s.seed) == ("3", 4.0, 2, 3600.0, 9, 7)
    assert (s.valid_every, s.log_every, s.backend) == (3, 2, "reference")
    assert (s.flow, s.flow_every, s.track, s.ablate) == (True, 5, "tensorboard", {"output": 1})
    assert s.cell_option == {"second_bias": True, "forget_bias": 3}  # the preset's, and the file's over it


def test_options_behind_a_cell_of_the_file_are_over_those_of_the_preset() -> None:
    settings = configured('files = "fox.txt"\npreset = "char-rnn"\ncell = "lstm:forget_bias=3"\nsteps = 1').settings
    assert settings.cell_option == {"second_bias": True, "forget_bias": "3"}


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset() -> None:
    text = 'files = "fox.txt"\npreset = "char-rnn"\nhidden_size = 6\nnum_layers = 1\nseed = 3\nsteps = 9'
    settings = configured(text, "--num-layers", "3", "--seed", "0", "--epochs", "0").settings
    assert (settings.hidden_size, settings.num_layers, settings.batch_size, settings.seed) == (6, 3, 50, 0)
    assert (settings.epochs, settings.steps) == (0.0, None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hiden-size = 3", "'c.toml': there is no option called 'hiden-size'. Did you mean 'hidden-size'?"),
        ("hiden_size = 3", "'c.toml': there is no option called 'hiden_size'. Did you mean 'hidden-size'?"),
        ("config = 'd.toml'", "'c.toml': there is no option called 'config'."),
        ("seed = 1\nseed = 2", "the configuration file 'c.toml' is not valid TOML: "),
        ("log-every = 1\nlog_every = 2", "'c.toml': 'log_every' is given twice, once with - and once with _"),
        ("cell-option = 'a=1'", "'c.toml': 'cell-option' is 'a=1'; it must be a table"),
        ("quiet = 'yes'", "'c.toml': 'quiet' is 'yes'; it must be true or false"),
        ("name = 3", "'c.toml': 'name' is 3; it must be text"),
        ("cell = 3", "'c.toml': 'cell' is 3; it must be text"),
        ("task = 3", "'c.toml': 'task' is 3; it must be text"),
        ("preset = 'karpathy'", "there is no preset called 'karpathy'; there is best, char-rnn"),
        ("epochs = '3'", "--epochs is '3'; it must be a number"),
        ("files = 3", "FILES is 3; it must be a list of texts"),
        ("seed = 2024-01-01", "--seed is datetime.date(2024, 1, 1); it must be a whole number"),
    ],
)
def test_a_configuration_file_that_will_not_do(text: str, sentence: str) -> None:
    Path("c.toml").write_text(text)
    assert refused("--config", "c.toml").startswith(sentence)


def test_a_configuration_file_that_is_none() -> None:
    Path("c.toml").write_bytes(b"# \xff\n")
    assert refused("--config", "c.toml") == (
        "the configuration file 'c.toml' is not UTF-8 (0xFF at byte offset 2); convert it from its encoding, for "
        "example: iconv -f CP1252 -t UTF-8 c.toml > c.utf-8.toml"
    )
    Path("c.toml").write_bytes("steps = 1".encode("utf-16"))
    assert refused("--config", "c.toml") == (
        "the configuration file 'c.toml' is UTF-16 and not UTF-8 (0xFF at byte offset 0); convert it: "
        "iconv -f UTF-16 -t UTF-8 c.toml > c.utf-8.toml"
    )
    Path("c.toml").write_text("steps = ")
    assert refused("--config", "c.toml").startswith("the configuration file 'c.toml' is not valid TOML: ")
    assert refused("--config", ".") == "the configuration file '.' cannot be read: is a directory"
    assert refused("--config", "/dev/zero").startswith("the configuration file '/dev/zero' is a device; give a file")


def test_a_configuration_file_with_a_byte_order_mark_and_cr_lf() -> None:
    Path("c.toml").write_bytes(b"\xef\xbb\xbfsteps = 3\r\nhidden-size = 4\r\n")
    run, result = trained("fox.txt", "--config", "c.toml")
    assert (run.settings.steps, run.settings.hidden_size) == (3, 4)
    assert result.stderr.startswith(
        "Note: In the configuration file 'c.toml', a byte order mark was left out and the line ends CR LF were read as "
        "LF.\n"
    )
    assert trained("fox.txt", "--config", "c.toml", "--quiet")[1].stderr == ""


def test_help_has_every_option_with_its_default() -> None:
    text = CliRunner().invoke(rnn, ["train", "--help"]).output
    for option in OPTIONS:
        assert option.opts[0] in text
        if not option.is_flag and option.opts[0] not in NO_DEFAULT:
            assert "[default: " in (option.help or "")
    assert [line for line in text.splitlines() if line and not line.startswith(" ")] == [
        "Usage: rnn train [OPTIONS] [FILES]...", "Task:", "Network:", "Training:", "Run:", "Output:", "Other:",
    ]  # fmt: skip
    assert "--rnn-size" not in text
    assert "object at" not in text


NO_DEFAULT = {
    "--cell-option",
    "--task-option",
    "--ablate",
    "--track",
    "--steps",
    "--resume",
    "--init-from",
    "--preset",
    "--config",
}


def test_every_option_stands_in_the_documentation() -> None:
    documentation = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text()
    for command in ("train", "rerun", "runs"):
        parameters = rnn.get_command(click.Context(rnn), command).params  # type: ignore[union-attr]
        for parameter in parameters:
            for name in parameter.opts if isinstance(parameter, click.Option) else []:
                assert f"`{name}`" in documentation, f"docs/command-line.md does not mention {name} of rnn {command}"
    for alias in (*ALIASES, *MEANINGLESS):
        assert f"`{alias}`" in documentation, f"docs/command-line.md does not mention {alias}"


def test_every_value_that_the_shell_completes_is_completed() -> None:
    """Click calls what a parameter has for that with the parameter; something else fails at Tab alone."""
    context = click.Context(rnn)
    commands = [rnn.get_command(context, name) for name in rnn.list_commands(context)]
    commands += [sub for command in commands if isinstance(command, click.Group) for sub in command.commands.values()]
    completed = [(command.name, parameter) for command in commands if command for parameter in command.params]
    assert {("show", "cell"), ("show", "task"), ("train", "cell")} <= {(name, p.name) for name, p in completed}
    for _, parameter in completed:
        assert isinstance(parameter.shell_complete(context, ""), list)
    for cell in (p for _, p in completed if p.name == "cell" and not p.multiple):
        assert [item.value for item in cell.shell_complete(context, "gr")] == ["gru"]


def test_the_shell_completes_runs_and_cells() -> None:
    trained("fox.txt", *SMALL, "--quiet")
    context = click.Context(rnn)
    parameter = OPTIONS[0]
    assert [item.value for item in completion.runs(context, parameter, "gru-")] == ["gru-fox"]
    assert "lstm-peephole" in [item.value for item in completion.cells(context, parameter, "lstm")]
    environment = os.environ | {
        "_RNN_COMPLETE": "bash_complete",
        "COMP_WORDS": "rnn train --resume gr",
        "COMP_CWORD": "3",
    }
    command = [sys.executable, "-c", "from rnn_cli.main import rnn; rnn(prog_name='rnn')"]
    assert subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False).stdout == b"plain,gru-fox\n"
