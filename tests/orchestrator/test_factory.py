"""From `my_agent.py` or `module:factory` to an agent: what is found, what fails, and what the user is told."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.agent import VoiceAgent
from orchestrator.factory import AgentFactory, AgentFailed, SessionInfo, load_factory
from protocol.errors import ConfigurationError, OptionError
from tests.support import run_async

ROOT = Path(__file__).parent.parent.parent

AGENT = """
from orchestrator import VoiceAgent

def agent(session):
    return VoiceAgent(instructions=f"You talk to {session.user_id}.")
"""

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Write:
    """Writes an agent file into the working directory, and gives the name of its module, new for each test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"agent_{abs(hash(request.node.name)):x}"

    def write_module(source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write_module


def instructions(name: str, session: SessionInfo | None = None) -> str:
    """What the agent that this factory makes is told."""
    return made(load_factory(name), session or SessionInfo("s1", "Ann")).current_task.instructions


def made(factory: AgentFactory, session: SessionInfo) -> VoiceAgent:
    async def make() -> VoiceAgent:
        return await factory(session)

    return run_async(make())


def refusal(name: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load_factory(name)
    return str(refused.value)


def failure(name: str) -> str:
    """Of a factory that can be loaded."""
    with pytest.raises(AgentFailed) as failed:
        made(load_factory(name), SessionInfo("s1"))
    return str(failed.value)


# --- what works -------------------------------------------------------------------------------------------------------


def test_without_a_name_the_built_in_agent_serves() -> None:
    assert "Antiphon" in made(load_factory(None), SessionInfo("s1")).current_task.instructions


def test_an_agent_is_made_for_each_session(write: Write) -> None:
    factory = load_factory(write(AGENT) + ":agent")

    async def two() -> tuple[VoiceAgent, VoiceAgent]:
        return await factory(SessionInfo("s1", "Ann")), await factory(SessionInfo("s2", "Bob"))

    ann, bob = run_async(two())
    assert ann is not bob
    assert [agent.current_task.instructions for agent in (ann, bob)] == ["You talk to Ann.", "You talk to Bob."]


@pytest.mark.parametrize(
    "source",
    [
        AGENT.replace("def agent", "async def agent"),
        AGENT + "class Desk:\n    made = staticmethod(agent)\nagent = Desk.made\n",
        AGENT.replace("(session)", "(session, greeting='hello')"),
        AGENT.replace("(session)", "(*sessions)").replace("{session", "{sessions[0]"),
        "from orchestrator import VoiceAgent\n"
        "class agent(VoiceAgent):\n"
        "    def __init__(self, session):\n"
        "        super().__init__(instructions=f'You talk to {session.user_id}.')\n",
    ],
    ids=["async", "static method", "default", "any number", "class"],
)
def test_whatever_can_be_called_with_a_session_is_a_factory(write: Write, source: str) -> None:
    assert instructions(write(source) + ":agent") == "You talk to Ann."


def test_a_factory_may_be_an_attribute_of_something_in_the_module(write: Write) -> None:
    assert (
        instructions(write(AGENT + "class Desk:\n    made = staticmethod(agent)\n") + ":Desk.made")
        == "You talk to Ann."
    )


# --- what cannot be loaded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [":agent", "my_agent:", "my_agent.py:", "my_agent.py:a:b", ".a:agent", "a..b:c", "a:b:c", "a:b.", "my-agent"],
)
def test_a_name_of_another_form_is_refused_with_the_right_ones(name: str) -> None:
    assert refusal(name).startswith(f"--agent {name!r} is neither FILE.py[:FACTORY] nor MODULE[:FACTORY], as in my_")


@pytest.mark.parametrize("module", ["no_such_agent", "no_such_package.agent"])
def test_a_module_that_is_not_there_is_said_with_where_it_was_looked_for(write: Write, module: str) -> None:
    assert f"there is no module {module!r}: looked in {os.getcwd()}" in refusal(module + ":agent")


def test_a_module_that_needs_another_one_names_that_one(write: Write) -> None:
    name = write("import no_such_library.deep\n")
    assert refusal(name + ":agent") == f"{name} needs the module 'no_such_library', which is not installed"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit('no key')", "SystemExit: no key"),
        ("def agent(:", "SyntaxError: invalid syntax"),
        ("from orchestrator import no_such_name", "ImportError: cannot import name 'no_such_name'"),
        ("from services.tts import espeak; espeak.TTS(rate=-1)", "option 'rate' is -1"),
    ],
)
def test_a_module_that_fails_while_it_is_imported_says_how(
    write: Write, source: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = write(source)
    found = refusal(name + ":agent")
    assert found.startswith(f"{name} failed while it was imported: ")
    assert reason in found
    assert found.endswith(f"({os.getcwd()}/{name}.py:1)")
    assert caplog.records[-1].exc_info, "the traceback is logged"


def test_an_attribute_that_is_missing_is_said_with_what_there_is(write: Write) -> None:
    found = refusal(write(AGENT) + ":agnet")
    assert "has no 'agnet'; it has VoiceAgent, agent" in found
    assert os.getcwd() in found
    assert "nothing that can be called" in refusal(write("x = 1") + ":agent")


def test_what_cannot_be_called_is_said(write: Write) -> None:
    assert "'agent' is 3; it must be a function of one session" in refusal(write("agent = 3") + ":agent")


@pytest.mark.parametrize("signature", ["()", "(session, more)", "(*, session)"])
def test_a_function_of_something_else_than_one_session_is_found_before_anybody_calls(
    write: Write, signature: str
) -> None:
    found = refusal(write(f"def agent{signature}: ...") + ":agent")
    assert f":agent: agent{signature} can't be called with one session" in found


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["{0}.py:agent", "./{0}.py", "{1}/{0}.py:agent", "{1}/../{2}/{0}.py"])
def test_a_file_is_loaded_by_its_path(write: Write, tmp_path: Path, place: str) -> None:
    assert instructions(place.format(write(AGENT), tmp_path, tmp_path.name)) == "You talk to Ann."


def test_a_file_in_another_folder_finds_the_modules_beside_it(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write(AGENT.replace("def agent", f"import beside_{tmp_path.name.replace('-', '_')}\ndef agent"))
    (tmp_path / f"beside_{tmp_path.name.replace('-', '_')}.py").write_text("")
    monkeypatch.chdir("/")
    assert instructions(f"{tmp_path}/{name}.py") == "You talk to Ann."
    assert sys.path[-1] == str(tmp_path)


def test_what_a_file_defines_can_be_pickled_and_its_annotations_resolved(write: Write) -> None:
    name = write(
        "from __future__ import annotations\nimport dataclasses, pickle, typing\n"
        "@dataclasses.dataclass\nclass Order:\n    of: typing.ClassVar[int] = 0\n    table: int = 0\n"
        "assert pickle.loads(pickle.dumps(Order(table=3))) == Order(table=3)\n"
        "assert typing.get_type_hints(Order)['table'] is int\n"
        "assert [one.name for one in dataclasses.fields(Order)] == ['table']\n" + AGENT
    )
    assert instructions(f"{name}.py:agent") == "You talk to Ann."


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere.py", "there is no file {0}/nowhere.py"),
        ("{0}", "{0} is a folder; name the Python file in it, as in {0}/my_agent.py"),
        ("{0}/agent-1:agent", "{0}/agent-1 is no Python file. Did you mean {0}/agent-1.py?"),
        ("{0}/notes.txt", "{0}/notes.txt is no Python file, for its name doesn't end in .py"),
        ("services.py", "has the name of one of Antiphon's own packages"),
        ("queue.py", "has the name of a module of Python's own"),
        ("click.py", "has the name of the module at"),
    ],
)
def test_a_file_that_cannot_be_the_agent_is_refused_before_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    import click  # is imported already, as it is in an orchestrator

    assert click.__file__
    monkeypatch.chdir(tmp_path)
    for file in ("agent-1.py", "notes.txt", "services.py", "queue.py", "click.py"):
        (tmp_path / file).write_text("raise SystemExit('it was run')")
    assert reason.format(tmp_path) in refusal(name.format(tmp_path))


def test_a_file_that_fails_in_another_one_names_the_line_there(write: Write, tmp_path: Path) -> None:
    beside = write("import json\n\njson.loads('no')\n")
    caller = tmp_path / f"{beside}_caller.py"
    caller.write_text(f"import {beside}\n")
    assert refusal(str(caller)).endswith(f"({tmp_path}/{beside}.py:3)")
    assert caller.stem not in sys.modules


def test_a_file_that_needs_a_module_that_is_not_there_names_it(write: Write) -> None:
    name = write("import no_such_library\n")
    assert refusal(f"{name}.py") == f"{name} needs the module 'no_such_library', which is not installed"


# --- a function that is not named -------------------------------------------------------------------------------------

IMPORTS = "from __future__ import annotations\nfrom orchestrator import SessionInfo, VoiceAgent\n"


def function(name: str, returns: str = "") -> str:
    return f"def {name}(session){returns}:\n    return VoiceAgent(instructions='{name}')\n"


@pytest.mark.parametrize(
    ("source", "chosen"),
    [
        (function("agent") + function("desk", " -> VoiceAgent"), "agent"),
        (function("other_agent") + function("desk", " -> VoiceAgent"), "desk"),
        (function("_private", " -> VoiceAgent") + "async " + function("desk", " -> VoiceAgent"), "desk"),
        (function("make_agent") + function("helper"), "make_agent"),
    ],
)
def test_it_is_called_agent_or_is_the_only_one_that_fits(write: Write, source: str, chosen: str) -> None:
    name = write(IMPORTS + source)
    assert instructions(name) == chosen
    assert instructions(f"{name}:{chosen}") == chosen


def test_annotations_that_were_evaluated_count_as_well(write: Write) -> None:
    name = write(
        "from orchestrator import VoiceAgent\n" + function("a", " -> VoiceAgent") + function("b", " -> 'VoiceAgent'")
    )
    assert "has several functions that may make the agent: a, b. Name the one" in refusal(f"{name}.py")


def test_without_one_that_fits_the_functions_that_there_are_are_named(write: Write) -> None:
    name = write(IMPORTS + function("desk") + function("till"))
    assert "no function that makes an agent; it has desk, till. Write one, as in: def agent(" in refusal(f"{name}.py")


# --- what fails for a session -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise KeyError('customer')", "raised KeyError: 'customer'"),
        ("import sys; sys.exit(3)", "raised SystemExit: 3"),
        ("return None", "returned NoneType, not a VoiceAgent"),
        ("return 'hello'", "returned str, not a VoiceAgent"),
    ],
)
def test_a_factory_that_fails_fails_its_session_alone(write: Write, kind: str, body: str, reason: str) -> None:
    assert reason in failure(write(f"{kind} agent(session):\n    {body}\n") + ":agent")


def test_a_class_that_makes_something_else_is_said_by_its_name(write: Write) -> None:
    assert "returned Desk, not a VoiceAgent" in failure(
        write("class Desk:\n    def __init__(self, session): ...\n") + ":Desk"
    )


def test_our_own_errors_reach_the_client_as_they_are(write: Write) -> None:
    factory = load_factory(
        write("from services.tts import espeak\ndef agent(session):\n    return espeak.TTS(rate=-1)\n") + ":agent"
    )
    with pytest.raises(OptionError, match="rate"):
        made(factory, SessionInfo("s1"))


# --- names that clash -------------------------------------------------------------------------------------------------

LOAD = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
import orchestrator.factory, protocol.errors
try:
    orchestrator.factory.load_factory("my_agent:agent")
except protocol.errors.ConfigurationError as error:
    print("REFUSED", error)
else:
    import services
    print("LOADED", services.__file__)
"""


def load_in(folder: Path, *path: Path) -> str:
    """Load `my_agent:agent` in a process of its own, started in this folder; returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOAD], cwd=folder, env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("theirs", ["services/__init__.py", "services.py", "services/billing.py"])
def test_a_users_services_beside_the_agent_does_not_take_the_place_of_ours(tmp_path: Path, theirs: str) -> None:
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).write_text("raise SystemExit('the wrong one')")
    (tmp_path / "my_agent.py").write_text("from services.tts import espeak\n" + AGENT)
    said = load_in(tmp_path, ROOT)
    assert f"LOADED {ROOT / 'services' / '__init__.py'}" in said
    assert f"WARNING {tmp_path / Path(theirs).parts[0]} has the name of one of Antiphon's own packages" in said


def test_an_agent_that_wants_its_own_services_is_told_of_the_clash(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "billing.py").write_text("")
    (tmp_path / "my_agent.py").write_text("import services.billing\n" + AGENT)
    assert (
        "REFUSED my_agent needs the module 'services.billing', but `services` is one of Antiphon's own packages: "
        "if you have one of that name, rename it"
    ) in load_in(tmp_path, ROOT)


def test_a_users_services_that_hides_ours_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "__init__.py").write_text("")
    (tmp_path / "my_agent.py").write_text(AGENT)
    said = load_in(tmp_path, tmp_path, ROOT)
    assert "REFUSED `import services` does not find Antiphon's own package but" in said
    assert str(tmp_path / "services" / "__init__.py") in said


def test_our_own_packages_in_the_working_directory_are_no_clash(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_factory(None)
    assert not caplog.records
