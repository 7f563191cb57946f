"""Placeholder until the journaled MLflow run lands."""
from contextlib import contextmanager
from pathlib import Path


class Run:
    def metrics(self, values, step=None): ...
    def artifact(self, path): ...
    def dataset(self, name, fingerprint, rows): ...
    def model(self, folder: Path, name: str): ...


@contextmanager
def run(verb, task, recipe, params):
    yield Run()
