"""A table of raw columns in, checked conversations out: prompt and response, or messages."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from stages.settings import BadInput
from stages.tasks import Task
from stages.tasks.examples import column_of, texts_of
from stages.tasks.files import Table

if TYPE_CHECKING:
    from datasets import Dataset


def conversations(table: Table, name: str, task: Task) -> "Dataset":
    """The task's columns of a table: prompt and response (text), or messages (lists of {role, content}).

    What follows an assistant's last turn teaches nothing and is left out.

    Raises:
        BadInput: no rows, a missing column, an empty response, a chat without an assistant's turn or with turns out of
            order, or no chat at all.
    """
    from datasets import Dataset

    if not table.lines:
        raise BadInput(f"{table.origin} has no rows; give it some, or change data.source")
    if task.messages:
        chats = column_of(table, name, task.messages, "messages")
        return Dataset.from_dict({"messages": [_chat(chat, table, row, task) for row, chat in enumerate(chats)]})
    columns = {side: texts_of(table, name, getattr(task, side), side) for side in ("prompt", "response")}
    for row, response in enumerate(columns["response"]):
        if not response.strip():
            raise BadInput(f"{table.where(row)}: {task.response} is empty; fill in or remove that row")
    return Dataset.from_dict(columns)


def _chat(chat: Any, table: Table, row: int, task: Task) -> list[dict[str, str]]:
    """Role and content of each turn, to the last of the assistant's."""
    column = task.messages
    if not isinstance(chat, list) or not all(map(_is_turn, chat)):
        raise BadInput(
            f"{table.where(row)}: {column} is {chat!r:.50}, not a list of {{role, content}}; correct that row"
        )
    own = [number for number, turn in enumerate(chat) if turn["role"] == "assistant"]
    if not own:
        raise BadInput(f"{table.where(row)}: {column} has no turn of the assistant; add one or remove that row")
    if empty := [number for number in own if not chat[number]["content"].strip()]:
        raise BadInput(f"{table.where(row)}: turn {empty[0] + 1} of {column} is empty; fill in or remove that row")
    kept = [{part: turn[part] for part in ("role", "content")} for turn in chat[: own[-1] + 1]]
    if wrong := _out_of_order([turn["role"] for turn in kept], column):
        raise BadInput(f"{table.where(row)}: {wrong}; user and assistant speak in turns, correct that row")
    return kept


def _out_of_order(roles: list[str], column: str) -> str:
    """Which turns of user and assistant are not in order; those of others, such as a tool, may stand anywhere."""
    first = roles.index("assistant")
    if "user" not in roles[:first]:
        return f"turn {first + 1} of {column} is the assistant's, and none of the user comes before it"
    twice = [n for n, (one, next_one) in enumerate(pairwise(roles), 1) if one == next_one in ("user", "assistant")]
    return f"turns {twice[0]} and {twice[0] + 1} of {column} are both the {roles[twice[0]]}'s" if twice else ""


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(part), str) for part in ("role", "content"))
