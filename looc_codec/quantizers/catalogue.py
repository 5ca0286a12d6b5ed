"""The quantizers by short name."""

from __future__ import annotations

import inspect
from typing import Any

from looc_codec.errors import ModelError
from looc_codec.quantizers.cvq import CVQQuantizer
from looc_codec.quantizers.hvq import HVQQuantizer
from looc_codec.quantizers.looc import LooCQuantizer
from looc_codec.quantizers.pq import PQQuantizer
from looc_codec.quantizers.quantizer import Quantizer
from looc_codec.quantizers.rq import RQQuantizer
from looc_codec.quantizers.sq import SQQuantizer
from looc_codec.quantizers.vq import VQQuantizer
from looc_codec.quantizers.vq_ema import VQEMAQuantizer
from looc_codec.quantizers.vqgan_fc import VQGANFCQuantizer
from looc_codec.quantizers.vqgan_lc import VQGANLCQuantizer

QUANTIZERS: dict[str, type[Quantizer]] = {
    "vq": VQQuantizer,
    "vq-ema": VQEMAQuantizer,
    "cvq": CVQQuantizer,
    "pq": PQQuantizer,
    "rq": RQQuantizer,
    "sq": SQQuantizer,
    "hvq": HVQQuantizer,
    "vqgan-fc": VQGANFCQuantizer,
    "vqgan-lc": VQGANLCQuantizer,
    "looc": LooCQuantizer,
}


def build(name: str, channels: int, **options: Any) -> Quantizer:
    """The quantizer of that name for a latent of `channels` channels; unknown names and options raise ModelError."""
    if name not in QUANTIZERS:
        raise ModelError(f"no quantizer is called {name!r}; there are {', '.join(QUANTIZERS)}")
    try:
        inspect.signature(QUANTIZERS[name]).bind(channels, **options)
    except TypeError as error:
        raise ModelError(f"the quantizer {name!r} does not take these options: {error}") from error
    return QUANTIZERS[name](channels, **options)
