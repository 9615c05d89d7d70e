"""Command options derived from configurations."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
import typer
from pydantic import BaseModel, Field

from kt_batch.cli.arguments import Command, Fields, expand, same
from tests.cli.conftest import Said, Say


class Engine(BaseModel):
    """The settings of the commands under test."""

    fuel: Literal["coal", "wood"] = Field("coal", description="What burns.")
    steam_pressure: float = Field(1.5, gt=0, description="In bar.")
    whistle: bool = Field(True, description="Whether it whistles.")
    wagons: tuple[int, ...] = Field((), description="Seats of each wagon.")
    driver: str | None = Field(None, description="Who drives.")


class Tender(BaseModel):
    fuel: Literal["coal", "wood"] = same(Engine, "fuel")
    load: int = Field(3, description="In tonnes.")


class Diesel(BaseModel):
    fuel: str = "oil"


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+"))


def ride(engine: Engine) -> int:
    typer.echo(repr(engine))
    return 0


def ride_with(
    *,
    tender: Tender,
    engine: Annotated[
        Engine,
        Fields(
            only=("fuel", "wagons"),
            options={"wagons": Annotated[str, typer.Option("--train", metavar="<A+B>"), numbers]},
        ),
    ],
    times: int = 1,
) -> int:
    typer.echo(f"{tender!r} {engine!r} {times}")
    return 0


def ride_on_wood(engine: Annotated[Engine, Fields(defaults={"fuel": "wood"}, panel="The engine")]) -> int:
    return ride(engine)


def ride_both(tender: Tender, diesel: Diesel) -> int:
    return 0


def run(kt: Say, command: Command, *words: object) -> Said:
    app = typer.Typer(add_completion=False)
    app.command()(expand(command))
    return kt(*words, of=app)


def test_a_command_gets_one_validated_configuration(kt: Say) -> None:
    assert run(kt, ride).out == f"{Engine()!r}\n"
    words = ["--fuel", "wood", "--steam-pressure", "2", "--no-whistle", "--wagons", 3, "--wagons", 4, "--driver", "Ann"]
    expected = Engine(fuel="wood", steam_pressure=2, whistle=False, wagons=(3, 4), driver="Ann")
    assert run(kt, ride, *words).out == f"{expected!r}\n"


def test_an_invalid_field_value_is_wrong_usage(kt: Say) -> None:
    said = run(kt, ride, "--steam-pressure", "-1")
    assert (said.code, "the option steam_pressure got -1.0" in said.err) == (2, True)


def test_help_shows_the_description_and_the_default_of_a_field(kt: Say) -> None:
    said = run(kt, ride_on_wood, "--help")
    assert all(text in said.out for text in ("What burns.", "[default: wood]", "[default: 1.5]", "The engine"))


def test_configurations_share_an_option_and_an_option_name_may_differ_from_its_field(kt: Say) -> None:
    said = run(kt, ride_with, "--fuel", "wood", "--train", "2+3", "--load", "5")
    assert said.out == f"{Tender(fuel='wood', load=5)!r} {Engine(fuel='wood', wagons=(2, 3))!r} 1\n"
    text = run(kt, ride_with, "--help").out
    assert "<A+B>" in text
    assert "Seats of each wagon." in text
    assert "--steam-pressure" not in text


def test_configurations_whose_fields_differ_cannot_share_an_option() -> None:
    with pytest.raises(TypeError, match="fuel has two types or defaults"):
        expand(ride_both)
