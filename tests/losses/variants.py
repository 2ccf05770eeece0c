"""The divergences as the tests try them: each with its defaults, and those with parameters of their own with others."""

from functools import partial
from typing import Any

from minikd.losses import DIVERGENCES, Divergence

OTHER_PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    ("symmetric_kl", {"weight": 0.2}),
    ("generalized_jsd", {"beta": 0.9}),
    ("generalized_jsd", {"beta": 0.05, "scaled": True}),
    ("skew_forward_kl", {"alpha": 0.7}),
    ("skew_reverse_kl", {"alpha": 0.7}),
    ("alpha_divergence", {"alpha": 0.8}),
    ("taid", {"t": 0.2}),
]

EXTREME_PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    ("generalized_jsd", {"beta": 1e-100}),
    ("generalized_jsd", {"beta": 1e-15, "scaled": True}),
    ("generalized_jsd", {"beta": 1 - 2**-53, "scaled": True}),
    ("skew_forward_kl", {"alpha": 1e-60}),
    ("skew_forward_kl", {"alpha": 1e-9}),
    ("skew_forward_kl", {"alpha": 1 - 1e-9}),
    ("skew_reverse_kl", {"alpha": 1e-60}),
    ("skew_reverse_kl", {"alpha": 1e-9}),
    ("skew_reverse_kl", {"alpha": 1 - 1e-9}),
    ("alpha_divergence", {"alpha": 1e-14}),
    ("alpha_divergence", {"alpha": 1 - 1e-9}),
    ("taid", {"t": 1e-12}),
    ("taid", {"t": 1 - 1e-12}),
]


def spelled(name: str, parameters: dict[str, Any]) -> str:
    """As one writes a call: "generalized_jsd(beta=0.9)"."""
    return f"{name}({', '.join(f'{key}={value:g}' for key, value in parameters.items())})" if parameters else name


CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    spelled(*choice): choice for choice in [(name, {}) for name in DIVERGENCES] + OTHER_PARAMETERS
}
VARIANTS: dict[str, Divergence] = {
    id: partial(DIVERGENCES[name], **parameters) if parameters else DIVERGENCES[name]
    for id, (name, parameters) in CHOICES.items()
}
