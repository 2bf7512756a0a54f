"""Hyperparameters of the pair models, as the tasks see them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PairwiseConfig:
    """Hyperparameters of one fit, as plain values.

    Attributes
    ----------
    embedding_dim : length of a vector
    product, network : what the score has beside the biases
    hidden : sizes of the network's hidden layers; its output is one number
    activation, dropout : of the hidden layers
    loss : ``squared``, ``logistic``, ``bpr`` or ``ccl``
    n_negatives : of each positive in each epoch, drawn in proportion to their count to the power
        ``popularity_exponent``
    rotate_negatives : whether each epoch has its own
    margin, negative_weight : of the cosine contrastive loss
    biases : whether b_u and b_i are learnt
    init_std : standard deviation of the embeddings before the first step
    mean : what is added to every score; None for the ratings' mean, or without ratings 0
    batch_size : pairs of a mini-batch, on average
    max_epochs : number of epochs
    learning_rate, schedule : of Adam, and how it goes on: ``constant``, ``linear`` or ``cosine``, to zero
        after all epochs
    weight_decay : L2 regularisation of the rows that a mini-batch touches
    seed : of every draw
    """

    embedding_dim: int
    product: bool = True
    network: bool = False
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float = 0.0
    loss: str = "logistic"
    n_negatives: int = 4
    popularity_exponent: float = 0.0
    rotate_negatives: bool = True
    margin: float = 0.0
    negative_weight: float = 1.0
    biases: bool = True
    init_std: float = 0.01
    mean: float | None = None
    batch_size: int = 8192
    max_epochs: int = 20
    learning_rate: float = 0.003
    schedule: str = "linear"
    weight_decay: float = 0.0
    seed: int = 0

    @property
    def explicit(self) -> bool:
        """Whether ratings are predicted, rather than that there is one."""
        return self.loss == "squared"

    @property
    def cosine(self) -> bool:
        """Whether vectors have length 1."""
        return self.loss == "ccl"
