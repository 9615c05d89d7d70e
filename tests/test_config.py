"""Configurations: their digests, and the names of searchers they accept."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kt_batch.config import EncoderConfig, SearchConfig
from kt_batch.methods.knowledge import KnowledgeConfig


def translate_config(**options: object) -> KnowledgeConfig:
    return KnowledgeConfig.model_validate(
        {
            "encoder": EncoderConfig(weights_sha256="0" * 64),
            "decoder_sha256": "1" * 64,
            "index_digest": "2" * 16,
            **options,
        }
    )


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        ({}, "44136fa355b3678a"),
        ({"searcher": "tree"}, "44136fa355b3678a"),
        ({"searcher": "ours"}, "44136fa355b3678a"),
        ({"certify": True}, "54671570422d8244"),
        ({"probes": 16, "top_k": 4}, "77c31ce4573a37e8"),
        ({"searcher": "exact"}, "87a25184ef5f8dd3"),
        ({"searcher": "scan"}, "3529f2b292e17b84"),
        ({"searcher": "hnsw", "probes": 64}, "a8e1d47985ef569a"),
        ({"searcher": "bhkm", "bands": 2, "probes": 1}, "0ff895a3b8336fec"),
    ],
    ids=str,
)
def test_the_digest_of_a_search_is_that_of_version_0_1(options: dict[str, object], digest: str) -> None:
    assert SearchConfig.model_validate(options).digest() == digest


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        ({}, "9c89910d807e8684"),
        ({"search": {"probes": 32}}, "b0a23c5871ff35f4"),
        ({"search": {"searcher": "ours", "probes": 32}}, "b0a23c5871ff35f4"),
        ({"search": {"searcher": "exact"}}, "104603638fe94c60"),
    ],
    ids=str,
)
def test_the_digest_of_a_translation_is_that_of_version_0_1(options: dict[str, object], digest: str) -> None:
    assert translate_config(**options).digest() == digest


def test_the_former_name_of_a_searcher_reads_as_the_present_one() -> None:
    assert SearchConfig.model_validate({"searcher": "ours"}) == SearchConfig(searcher="tree") == SearchConfig()
    read = KnowledgeConfig.model_validate_json(translate_config().model_dump_json().replace('"tree"', '"ours"'))
    assert read.search.searcher == "tree"


@pytest.mark.parametrize("value", ["certified", "", None, 3, ["tree"]])
def test_other_names_are_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="searcher"):
        SearchConfig.model_validate({"searcher": value})
