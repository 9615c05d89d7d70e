"""The key-value metadata of a plan file: its format, its retry, the configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kt_batch.errors import DamagedError
from kt_batch.store.documents import parse_document

PLAN_FORMAT = "kt-batch-plan/1"
RETRY_FORMAT = "kt-batch-plan/2"  # with the number of the retry
NAMES_FORMAT = "kt-batch-plan/3"  # with a column of outputs whose path is not the plain one, and perhaps a retry
TAGS_FORMAT = "kt-batch-plan/4"  # with a column of outputs and one of tags, and perhaps a retry
PAIRS_FORMAT = "kt-batch-plan/5"  # with columns of outputs, of tags and of edited pictures, and perhaps a retry

_DIGEST = re.compile(r"[0-9a-f]{16}")
_RETRY = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class PlanMetadata:
    """What a plan says of all its units.

    retry: The number of the retry; 0 for first attempts. named: There is a column of outputs. tagged: There is one of
    tags, too. paired: And one of edited pictures.
    """

    config: dict[str, Any]
    config_digest: str
    retry: int
    named: bool
    tagged: bool = False
    paired: bool = False

    def encoded(self) -> dict[str, str]:
        """Return the entries of the file."""
        plain = RETRY_FORMAT if self.retry else PLAN_FORMAT
        kind = PAIRS_FORMAT if self.paired else TAGS_FORMAT if self.tagged else NAMES_FORMAT if self.named else plain
        retry = {"retry": str(self.retry)} if self.retry else {}
        config = json.dumps(self.config, sort_keys=True, separators=(",", ":"))
        return {"format": kind, **retry, "config": config, "config_digest": self.config_digest}


def parse_plan_metadata(entries: Mapping[str, str], name: str) -> PlanMetadata:
    """Parse the entries of the plan `name`; raise DamagedError where no plan has them."""
    kind, retry, digest = entries.get("format"), entries.get("retry", ""), entries.get("config_digest", "")
    if kind not in (PLAN_FORMAT, RETRY_FORMAT, NAMES_FORMAT, TAGS_FORMAT, PAIRS_FORMAT):
        shown = repr(kind and kind[:64])
        raise DamagedError(f"{name} has the format {shown}; allowed are {PLAN_FORMAT!r} to {PAIRS_FORMAT!r}")
    named = kind in (NAMES_FORMAT, TAGS_FORMAT, PAIRS_FORMAT)
    retried = kind == RETRY_FORMAT or (named and "retry" in entries)
    if retried and not _RETRY.fullmatch(retry):
        raise DamagedError(f"{name} names the retry {retry[:64]!r}; allowed is 1 and more")
    if not _DIGEST.fullmatch(digest):
        raise DamagedError(f"{name} has the config digest {digest[:64]!r}; allowed are 16 lower-case hex digits")
    config = parse_document(entries.get("config", ""), f"the configuration in {name}")
    tagged = kind in (TAGS_FORMAT, PAIRS_FORMAT)
    return PlanMetadata(config, digest, int(retry) if retried else 0, named, tagged, kind == PAIRS_FORMAT)
