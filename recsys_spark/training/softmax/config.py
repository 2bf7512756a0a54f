"""Hyperparameters of the softmax model, as the tasks see them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SoftmaxConfig:
    """Hyperparameters of one fit, as plain values.

    Attributes
    ----------
    embedding_dim : length of an item's input vector
    hidden : sizes of the layers from the bag to ψ, the last one's is that of ψ; none: ψ is the bag
    activation : of the layers but the last, ``relu`` or ``tanh``
    dropout : fraction of a hidden layer's outputs that a training step leaves out
    tie_items : whether v is the input vector
    bag_exponent : the bag is the sum over the number of items to this power: 1 for the mean
    cosine, temperature : the score
    n_negatives : items drawn for each mini-batch, in proportion to their count to the power
        ``popularity_exponent``; 0 for the whole catalogue
    target_fraction : fraction of each history that an epoch holds out
    user_exponent : a user weighs as much as their held-out items to this power: 0 for all alike, 1 for all
        items alike
    batch_size : users of a mini-batch
    max_epochs : largest number of epochs
    learning_rate, schedule : of Adam, and how it goes on: ``constant``, ``linear`` or ``cosine``, to zero
        after all epochs
    weight_decay : L2 regularisation
    gravity : weight of the mean squared score over the items of the loss
    validation_fraction : fraction of the users that are not trained on, whose loss decides when to stop
    patience : epochs without a lower loss after which to stop; 0 for never
    seed : of every draw
    """

    embedding_dim: int
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float = 0.0
    tie_items: bool = False
    bag_exponent: float = 0.5
    cosine: bool = False
    temperature: float = 1.0
    n_negatives: int = 0
    popularity_exponent: float = 0.75
    target_fraction: float = 0.5
    user_exponent: float = 0.5
    batch_size: int = 256
    max_epochs: int = 20
    learning_rate: float = 0.01
    schedule: str = "linear"
    weight_decay: float = 0.0
    gravity: float = 0.0
    validation_fraction: float = 0.0
    patience: int = 0
    seed: int = 0

    @property
    def width(self) -> int:
        """Length of ψ and of v."""
        return self.hidden[-1] if self.hidden else self.embedding_dim
