"""What the load tool is told: on the command line (`--rates 50,100`) or in the environment (`MAKD_LOAD_RATES`)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from serving.settings import COMMAND_LINE, Count

Positive = Annotated[float, Field(gt=0)]


class Load(BaseSettings):
    """A running service in; how much of it is sustained, and how long answers take, out.

    A closed loop of 1, 4, ... clients first; then an open loop: the highest rate that the service keeps up with
    (saturation), and latencies at shares of it, free of coordinated omission. An API key is taken from MAKD_API_KEY.
    """

    model_config = COMMAND_LINE | SettingsConfigDict(env_prefix="MAKD_LOAD_", cli_prog_name="python -m serving.load")

    url: CliPositionalArg[Annotated[str, Field(pattern=r"^https?://[^/]+")]]
    """Where the service listens, such as http://127.0.0.1:8000."""
    texts: Path | None = None
    """What to ask about: a text file, one text a line (of a pair with a tab between its two); or a folder
    `outputs/prepare/<task>/data`, whose validation split is taken; without it, made-up reviews of mixed lengths."""
    output: Path = Path("outputs/load")
    """Folder for `load.json` and `load.png`."""
    api: Literal["predict", "v2", "completions"] = "predict"
    """`predict`: /predict, as text-embeddings-inference has it; `v2`: the Open Inference Protocol, texts as BYTES;
    `completions`: /v1/completions."""
    name: str = ""
    """The model's name, of which v2 makes its path."""
    batch: Count = 1
    """Texts a request."""
    tokens: Count = 32
    """Tokens to write, of completions."""
    clients: list[Count] = [1, 4, 16, 64]
    """Closed loop: how many clients, each with one request under way."""
    rates: list[Positive] = []
    """Open loop: requests per second; without any, the saturation is looked for, and shares of it are run."""
    shares: list[Annotated[float, Field(gt=0, le=1)]] = [0.1, 0.3, 0.5, 0.7, 0.9]
    """Shares of the saturation to run."""
    arrivals: Literal["poisson", "constant"] = "poisson"
    """Open loop: independent clients (exponential gaps), or a metronome."""
    limit_ms: Positive | None = None
    """A rate counts as sustained only where 99 % are answered within this time."""
    seconds: Positive = 10.0
    """Length of each run; to be told apart from a service that falls behind, ten times its latency or more."""
    warmup: Annotated[float, Field(ge=0)] = 2.0
    """Seconds of load before anything is counted."""
    timeout: Positive = 10.0
    """Seconds after which a client gives a request up."""
    connections: Count = 1000
    """Most connections open at once; what waits for one is counted as waiting."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the order of the texts and of the arrivals."""
