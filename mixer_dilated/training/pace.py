"""How many steps are done before a run looks up from its work, and when it saves."""

import math
import time

import ml_collections

from mixer_dilated.training.agreement import first_says

PIECE_SECONDS = 1.0
FIRST_PIECE, GROWTH = 8, 4


class Pace:
    """Cuts epochs into pieces of about a second, after which a run may save or stop.

    Args:
      settings: `config.checkpoints`.
    """

    def __init__(self, settings: ml_collections.ConfigDict):
        self._every_steps = settings.every_steps
        self._every_seconds = settings.every_minutes * 60
        self._piece = FIRST_PIECE
        self._saved_at = -math.inf  # the first is due at once

    def next_piece(self, step: int, steps_left: int) -> int:
        """Steps of the next piece.

        Args:
          step: steps that are done.
          steps_left: of this epoch; at least one.
        """
        piece = min(self._piece, steps_left)
        if self._every_steps:
            piece = min(piece, self._every_steps - step % self._every_steps)
        return piece

    def took(self, steps: int, seconds: float) -> None:
        """Learns from a piece how long the next should be; all processes say the same."""
        fitting = int(PIECE_SECONDS * steps / max(seconds, 1e-9))
        self._piece = max(1, min(fitting, GROWTH * max(steps, self._piece)))

    def save_due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        at_step = self._every_steps and step % self._every_steps == 0
        since = first_says(time.monotonic() - self._saved_at)
        return bool(at_step) or since >= self._every_seconds

    def saved(self) -> None:
        """A checkpoint was begun."""
        self._saved_at = time.monotonic()
