"""YAML whose traps are refused with their line."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.errors import ConfigError
from relume.strict_yaml import read

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcde", "bcdef", strict=True)
)


def written(folder, text):
    """A file with this text or these bytes."""
    path = folder / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, "the key c is there twice"),
        ("a: {b: 1, b: 1}\n", 1, "the key b is there twice"),
        ("a:\n\tb: 1\n", 2, "a tab"),
        ("a: 1\nb: .nan\n", 2, ".nan is not a finite number"),
        ("a: 1\nb: [1, -.inf]\n", 2, "-.inf is not a finite number"),
        ("a: 1\nb: 1.0e+999\n", 2, "1.0e+999 is not a finite number"),
        ("a: 1\nb: !!python/name:os.system\n", 2, "python/name:os.system: this kind of value is not allowed"),
        ("a: !mine {b: 1}\n", 1, "!mine: this kind of value is not allowed"),
        ("a: 2024-01-01\n", 1, "timestamp: this kind of value is not allowed"),
        ("a: !!set {b}\n", 1, "set: this kind of value is not allowed"),
        ("a: !!int x\n", 1, "invalid literal"),
        ('a: 1\nb: !!int ""\n', 2, "'' is not of type int"),
        ("a: 1\nb: !!bool x\n", 2, "'x' is not of type bool"),
        (BOMB, 5, "references unfold to more than 100,000 values"),
        ("a: 1\nb: &b [*b]\n", 2, "a value refers to itself"),
        ("a: 1\nb: *none\n", 2, "undefined alias"),
        ("a: 1\ntrue: 2\n", 2, "the key true is read as True"),
        ("a: 1\n1.5: 2\n", 2, "the key 1.5 is read as 1.5"),
        ("a: 1\nb: [1\nc: 2\n", 3, "expected"),
        ("a: 1\nb: c: 2\n", 2, "mapping values are not allowed"),
        ("a: 1\n--- \nb: 2\n", 2, "expected a single document"),
        (b"a: 1\nb: \xff\n", 2, "its text is not UTF-8"),
        ("- a\n", 1, "it has no keys"),
        ("a: 1\n<<: [1]\n", 2, "this is not a mapping"),
    ],
)
def test_a_trap_is_refused_with_its_line(tmp_path, text, line, said):
    """The message names the file, the line, what is wrong and what to do."""
    with pytest.raises(ConfigError) as error:
        read(written(tmp_path, text))
    assert error.value.where == f"{tmp_path / 'params.yaml'}, line {line}"
    assert said in str(error.value.why)
    assert error.value.next_step


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("010", "8"),
        ("-010", "-8"),
        ("00", "0"),
        ("0b11", "3"),
        ("6:24", "384"),
        ("1:30.5", "90.5"),
        ("1_000", "1000"),
        ("0x_ff", "255"),
        ("1_000.5", "1000.5"),
        ("yes", "true"),
        ("No", "false"),
        ("ON", "true"),
        ("off", "false"),
    ],
)
@pytest.mark.parametrize("line", ["b: {}", "b: [{}]", "{}: b", "b: {{c: {}}}"])
def test_what_looks_like_something_else_is_refused(tmp_path, line, text, meant):
    """YAML 1.1's octal, binary and sexagesimal numbers, `_` and `yes`; the message says what to write, and it holds."""
    path = written(tmp_path, f"a: 1\n{line.format(text)}\n")
    with pytest.raises(ConfigError) as error:
        read(path)
    assert error.value.where == f"{path}, line 2"
    assert error.value.next_step == f'write {meant}, or "{text}" in quotes for a text'
    if not line.startswith("{}"):
        for better in (meant, f'"{text}"'):
            better_line = line.format(better)
            assert read(written(tmp_path, better_line)).value == yaml.safe_load(better_line)


@pytest.mark.parametrize(
    "text", ["0", "-1", "+3", "0x1F", "1.0e-4", ".5", "-0.0", "6.", "010.5", "true", "False", "'no'"]
)
def test_plain_numbers_and_quoted_texts_are_no_traps(tmp_path, text):
    """They mean the same to every reader."""
    assert read(written(tmp_path, f"a: {text}")).value == yaml.safe_load(f"a: {text}")


def test_a_character_that_yaml_does_not_allow_is_refused(tmp_path):
    """Such as a NUL."""
    with pytest.raises(ConfigError, match="not valid YAML"):
        read(written(tmp_path, "a: \0\n"))


def test_deep_nesting_is_refused(tmp_path):
    """It is an error with a message, not one of the interpreter."""
    with pytest.raises(ConfigError, match="nested too deeply"):
        read(written(tmp_path, "a: " + "[" * 5000 + "]" * 5000))


def test_a_missing_file_is_named(tmp_path):
    """With what to do."""
    with pytest.raises(ConfigError, match=r"params\.yaml(.|\n)*change to the top"):
        read(tmp_path / "params.yaml")


def test_a_folder_is_no_file(tmp_path):
    """It is refused with a message."""
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(ConfigError, match="The file cannot be read"):
        read(tmp_path / "params.yaml")


def test_values_have_their_lines(tmp_path):
    """Of keys the line of the key, of entries of a list that of the entry; comments and blank lines count."""
    document = read(written(tmp_path, "# knobs\na:\n  b: 1\n\n  c: [1,\n    2]\nd: {e: {f: x}}\n"))
    assert document.value == {"a": {"b": 1, "c": [1, 2]}, "d": {"e": {"f": "x"}}}
    wanted = {("a",): 2, ("a", "b"): 3, ("a", "c"): 5, ("a", "c", 0): 5, ("a", "c", 1): 6, ("d", "e", "f"): 7}
    assert document.lines.items() >= wanted.items()


def test_references_and_merged_keys_are_values(tmp_path):
    """As YAML 1.1 means them: a key of the mapping itself wins over a merged one, the first of several mappings too."""
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\nd: *a\n"
    assert read(written(tmp_path, text)).value == yaml.safe_load(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text() | st.integers(), values, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_what_is_no_trap_means_what_yaml_means(tmp_path_factory, value):
    """Any plain value that PyYAML writes is read back as it is."""
    path = written(tmp_path_factory.mktemp("yaml"), yaml.safe_dump(value))
    assert read(path).value == value


def test_what_is_merged_has_the_line_that_holds_it(tmp_path):
    """Own keys win over merged ones and the first merged mapping over the next, each with its own line."""
    path = tmp_path / "f.yaml"
    path.write_text("a: &a\n  x: 1\n  y: 1\nb: &b\n  y: 2\n  z: 2\nuse:\n  x: 3\n  <<: [*a, *b]\n")
    document = read(path)
    assert document.value["use"] == {"x": 3, "y": 1, "z": 2}
    assert {key: document.lines["use", key] for key in "xyz"} == {"x": 8, "y": 3, "z": 6}
