"""Sends what stages could not send while MLflow was away, nothing twice: `python -m stages.tracking`."""

import argparse
import sys
from pathlib import Path

from stages.tracking.context import root
from stages.tracking.delivery import address
from stages.tracking.follower import follow, prepare, send_left_over
from stages.tracking.journal import Journal, left_over


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.tracking", description=__doc__)
    parser.add_argument("--follow", type=Path, help="the journal of a stage at work (stages call this themselves)")
    arguments = parser.parse_args()
    if arguments.follow:
        follow(Journal(arguments.follow), root())
    else:
        send()


def send() -> None:
    """Sends everything that no stage is working on, and says what became of it."""
    folder = root() / ".makd" / "journal"
    if not left_over(folder):
        print("tracking: nothing to send")
        return
    prepare()
    try:
        sent = send_left_over(root())
    except Exception as error:
        reason = str(error).splitlines()[0]
        sys.exit(f"tracking: {address(root())} does not answer ({reason}); everything is kept, try again later")
    for name, complete in sent.items():
        print(f"tracking: {name} {'sent' if complete else 'could not be sent whole and is kept'}")
    if rest := [journal.id for journal in left_over(folder) if journal.id not in sent]:
        print(f"tracking: still at work: {', '.join(rest)}")


if __name__ == "__main__":
    main()
