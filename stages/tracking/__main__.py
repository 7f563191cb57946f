"""Sends what stages could not send while MLflow was away, nothing twice: `python -m stages.tracking`."""

import argparse
import sys
from pathlib import Path

from stages.tracking.context import find_checkout, get_tracking_uri
from stages.tracking.follower import configure_mlflow, follow_journal, send_ended_journals
from stages.tracking.journal import Journal, list_journals


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.tracking", description=__doc__)
    parser.add_argument("--follow", type=Path, help="the journal of a stage at work (stages call this themselves)")
    arguments = parser.parse_args()
    if arguments.follow:
        follow_journal(Journal(arguments.follow), find_checkout())
    else:
        send_all()


def send_all() -> None:
    """Sends everything that no stage is working on, and reports on it."""
    checkout = find_checkout()
    folder = checkout / ".makd" / "journal"
    if not list_journals(folder):
        print("tracking: nothing to send")
        return
    configure_mlflow()
    try:
        sent = send_ended_journals(checkout)
    except Exception as error:
        reason = str(error).splitlines()[0]
        sys.exit(f"tracking: {get_tracking_uri(checkout)} does not answer ({reason}); all is kept, try again later")
    for name, complete in sent.items():
        print(f"tracking: {name} {'sent' if complete else 'could not be sent whole and is kept'}")
    if rest := [journal.id for journal in list_journals(folder) if journal.id not in sent]:
        print(f"tracking: still at work: {', '.join(rest)}")


if __name__ == "__main__":
    main()
