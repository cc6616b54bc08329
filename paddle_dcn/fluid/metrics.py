"""`fluid.metrics` of Paddle 1.x: what is counted of results over many runs, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from ._moved import module_getattr

__all__ = ["Accuracy", "Auc", "CompositeMetric", "MetricBase", "Precision", "Recall"]


class MetricBase:
    """What metrics of one's own are derived from."""

    def __init__(self, name: str | None = None) -> None:
        """Take a name, which is the class's if there is none."""
        self._name = name or type(self).__name__

    def reset(self) -> None:
        """Set numbers and arrays, as far as their names do not begin with `_`, to zero."""
        for name, value in vars(self).items():
            if not name.startswith("_") and isinstance(value, (int, float, np.ndarray)):
                setattr(self, name, value * 0)

    def get_config(self) -> dict[str, Any]:
        """Return what :meth:`reset` would set."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def update(self, preds: Any, labels: Any) -> None:
        """Count results."""
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def eval(self) -> Any:
        """Return what was counted since the last :meth:`reset`."""
        raise NotImplementedError(f"{type(self).__name__} has no eval")


class CompositeMetric(MetricBase):
    """Several metrics of the same results."""

    def __init__(self, name: str | None = None) -> None:
        """Take a name."""
        super().__init__(name)
        self._metrics: list[MetricBase] = []

    def add_metric(self, metric: MetricBase) -> None:
        """Take another metric."""
        if not isinstance(metric, MetricBase):
            raise TypeError(f"metric: expected a MetricBase, got {type(metric).__name__}")
        self._metrics.append(metric)

    def reset(self) -> None:
        """Reset each metric."""
        for metric in self._metrics:
            metric.reset()

    def update(self, preds: Any, labels: Any) -> None:
        """Update each metric."""
        for metric in self._metrics:
            metric.update(preds, labels)

    def eval(self) -> list[Any]:
        """Return the value of each metric."""
        return [metric.eval() for metric in self._metrics]


class _Hits(MetricBase):
    """Counts which rounded predictions of two classes are right."""

    _counts = 1  # the predictions (1) or labels (0) that count

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.tp = 0  # of what counts: both are 1
        self.others = 0  # only one is

    def update(self, preds: Any, labels: Any) -> None:
        """Count predictions, the probabilities of class 1, beside labels of 0 and 1, [N, 1]."""
        rounded = np.rint(np.asarray(preds)).astype("int64").ravel()
        labels = np.asarray(labels).ravel()
        counted = (labels, rounded)[self._counts] == 1
        right = int(np.sum(counted & (rounded == labels)))
        self.tp += right
        self.others += int(counted.sum()) - right

    def eval(self) -> float:
        """Return the share of what counts that is right; 0 of nothing."""
        count = self.tp + self.others
        return self.tp / count if count else 0.0


class Precision(_Hits):
    """The share of predictions of class 1 that are right."""


class Recall(_Hits):
    """The share of labels of class 1 that are found."""

    _counts = 0


class Accuracy(MetricBase):
    """The mean of accuracies, weighted with the sizes of their batches."""

    def __init__(self, name: str | None = None) -> None:
        """Take a name."""
        super().__init__(name)
        self.value = 0.0
        self.weight = 0.0

    def update(self, value: Any, weight: Any) -> None:
        """Count the accuracy of a batch of so many examples."""
        if np.min(weight) < 0:
            raise ValueError(f"weight: expected at least 0, got {weight}")
        self.value += float(np.asarray(value).ravel()[0]) * float(np.asarray(weight).ravel()[0])
        self.weight += float(np.asarray(weight).ravel()[0])

    def eval(self) -> float:
        """Return the mean.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.weight:
            raise ValueError("there is nothing to evaluate: call update first")
        return self.value / self.weight


class Auc(MetricBase):
    """The area under the curve of two classes, which `paddle.metric.Auc` computes."""

    def __init__(self, name: str | None = None, curve: str = "ROC", num_thresholds: int = 4095):
        """Take a name, `"ROC"` or `"PR"`, and in how many steps probabilities are counted."""
        super().__init__(name)
        self._auc = paddle.metric.Auc(curve, num_thresholds)

    def reset(self) -> None:
        """Forget what was counted."""
        self._auc.reset()

    def update(self, preds: Any, labels: Any) -> None:
        """Count probabilities [N, 2] of the classes, beside labels of 0 and 1, [N, 1]."""
        self._auc.update(np.asarray(preds), np.asarray(labels))

    def eval(self) -> float:
        """Return the area."""
        return self._auc.accumulate()


__getattr__ = module_getattr(__name__)
