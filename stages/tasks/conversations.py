"""A table of raw columns in, checked conversations out: prompt and response, or messages."""

from itertools import pairwise
from typing import Any

from datasets import Dataset

from stages.errors import BadInput
from stages.schema.task import CausalLMTask
from stages.tasks.examples import get_column, get_texts
from stages.tasks.files import Table

Message = dict[str, str]
"""{role, content}"""


def read_conversations(table: Table, name: str, task: CausalLMTask) -> Dataset:
    """The task's columns of a table: prompt and response (text), or messages (lists of {role, content}).

    What follows an assistant's last turn teaches nothing and is left out.

    Raises:
        BadInput: no rows, a missing column, an empty response, a chat without an assistant's turn or with turns out of
            order, or no chat at all.
    """
    if not table.lines:
        raise BadInput(f"{table.origin} has no rows; give it some, or change data.source")
    if task.messages:
        chats = get_column(table, name, task.messages, "messages")
        return Dataset.from_dict({"messages": [_check_chat(chat, table, row, task) for row, chat in enumerate(chats)]})
    columns = {
        "prompt": get_texts(table, name, task.prompt, "prompt"),
        "response": get_texts(table, name, task.response, "response"),
    }
    for row, response in enumerate(columns["response"]):
        if not response.strip():
            raise BadInput(f"{table.describe_row(row)}: {task.response} is empty; fill in or remove that row")
    return Dataset.from_dict(columns)


def _check_chat(chat: Any, table: Table, row: int, task: CausalLMTask) -> list[Message]:
    """Role and content of each turn, to the last of the assistant's."""
    column, place = task.messages, table.describe_row(row)
    if not isinstance(chat, list) or not all(map(_is_message, chat)):
        raise BadInput(f"{place}: {column} is {chat!r:.50}, not a list of {{role, content}}; correct that row")
    own = [number for number, turn in enumerate(chat) if turn["role"] == "assistant"]
    if not own:
        raise BadInput(f"{place}: {column} has no turn of the assistant; add one or remove that row")
    if empty := [number for number in own if not chat[number]["content"].strip()]:
        raise BadInput(f"{place}: turn {empty[0] + 1} of {column} is empty; fill in or remove that row")
    messages = [{part: turn[part] for part in ("role", "content")} for turn in chat[: own[-1] + 1]]
    if problem := _find_disorder([turn["role"] for turn in messages], column):
        raise BadInput(f"{place}: {problem}; user and assistant take turns, correct that row")
    return messages


def _find_disorder(roles: list[str], column: str) -> str:
    """Which turns of user and assistant are not in order; those of others, such as a tool, may be anywhere."""
    first = roles.index("assistant")
    if "user" not in roles[:first]:
        return f"turn {first + 1} of {column} is the assistant's, and none of the user comes before it"
    twice = [n for n, (one, next_one) in enumerate(pairwise(roles), 1) if one == next_one in ("user", "assistant")]
    return f"turns {twice[0]} and {twice[0] + 1} of {column} are both the {roles[twice[0]]}'s" if twice else ""


def _is_message(turn: Any) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(part), str) for part in ("role", "content"))
