"""Reads Triton's config.pbtxt, and refuses what its schema (model_config.proto) doesn't know."""

import json
import re
from typing import Any

TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|(-?\d+|[A-Za-z_]\w*)|([\[\]{}:,]))')
TEXT, NUMBER, FLAG = str, int, bool
KINDS = {"TYPE_UINT8", "TYPE_INT32", "TYPE_FP32", "KIND_CPU", "KIND_GPU"}
PAIR: dict[str, Any] = {"key": TEXT, "value": TEXT}
TENSOR: dict[str, Any] = {"name": TEXT, "data_type": KINDS, "dims": [NUMBER]}
CONFIG: dict[str, Any] = {
    "name": TEXT,
    "platform": TEXT,
    "backend": TEXT,
    "max_batch_size": NUMBER,
    "input": [{**TENSOR, "allow_ragged_batch": FLAG}],
    "output": [{**TENSOR, "label_filename": TEXT}],
    "dynamic_batching": {
        "preferred_batch_size": [NUMBER],
        "max_queue_delay_microseconds": NUMBER,
    },
    "instance_group": [{"count": NUMBER, "kind": KINDS}],
    "parameters": [{"key": TEXT, "value": {"string_value": TEXT}}],
    "ensemble_scheduling": {
        "step": [
            {"model_name": TEXT, "model_version": NUMBER, "input_map": [PAIR], "output_map": [PAIR]}
        ]
    },
}


def parse(text: str) -> dict[str, Any]:
    tokens: list[str] = []
    text, place = text.rstrip(), 0
    while place < len(text):
        match = TOKEN.match(text, place)
        assert match, f"not protobuf's text format: {text[place : place + 40]!r}"
        tokens.append(match.group().strip())
        place = match.end()
    message = _message(tokens, CONFIG, until="")
    assert not tokens
    return message


def _message(tokens: list[str], schema: dict[str, Any], *, until: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    while tokens and tokens[0] != until:
        key = tokens.pop(0)
        assert key in schema, f"there is no field {key!r} here"
        assert key not in made, f"{key!r} comes twice"
        kind = schema[key]
        inner = kind[0] if isinstance(kind, list) else kind
        if tokens[0] == ":":
            tokens.pop(0)
        else:
            assert isinstance(inner, dict), f"{key!r} lacks its colon"
        if isinstance(kind, list):
            made[key] = _list(tokens, inner)
        else:
            made[key] = _one(tokens, kind)
    return made


def _list(tokens: list[str], kind: Any) -> list[Any]:
    assert tokens.pop(0) == "["
    made = [_one(tokens, kind)]
    while (token := tokens.pop(0)) == ",":
        made.append(_one(tokens, kind))
    assert token == "]"
    return made


def _one(tokens: list[str], kind: Any) -> Any:
    token = tokens.pop(0)
    if isinstance(kind, dict):
        assert token == "{"
        made = _message(tokens, kind, until="}")
        assert tokens.pop(0) == "}"
        return made
    if kind is TEXT:
        assert token.startswith('"')
        return json.loads(token)
    if kind is FLAG:
        return {"true": True, "false": False}[token]
    if kind is NUMBER:
        return int(token)
    assert token in kind, token
    return token
