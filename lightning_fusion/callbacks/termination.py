"""End of an evaluation after SIGTERM."""

import signal
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException


class EndOnTermination(Callback):
    """End validation, test and prediction at the next batch after SIGTERM.

    The Trainer receives the signal, and ends a fit by itself; other loops would run to their end.

    Raises:
        SIGTERMException: If the process received SIGTERM; it ends the process.
    """

    def on_validation_batch_end(self, trainer: Trainer, *batch: Any) -> None:
        """End the loop; a validation within a fit is finished, which may save a checkpoint."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._end(trainer)

    def on_test_batch_end(self, trainer: Trainer, *batch: Any) -> None:
        """End the loop."""
        self._end(trainer)

    def on_predict_batch_end(self, trainer: Trainer, *batch: Any) -> None:
        """End the loop."""
        self._end(trainer)

    @staticmethod
    def _end(trainer: Trainer) -> None:
        if trainer.received_sigterm:
            raise SIGTERMException(128 + signal.SIGTERM)  # the status of a terminated process
