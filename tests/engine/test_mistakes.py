import pytest
import torch

from googlenet_fast.engine.mistakes import Mistakes


def test_the_surest_mistakes_of_all_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 4, generator=generator)
    labels = torch.randint(4, (50,), generator=generator)
    mistakes = Mistakes(5)
    for part in (slice(0, 20), slice(20, 49), slice(49, 50)):
        mistakes.add(logits[part], labels[part])
    probabilities = logits.softmax(1)
    highest, predictions = probabilities.max(1)
    wrong = [i for i in highest.argsort(descending=True).tolist() if predictions[i] != labels[i]]
    found = mistakes.most_confident_first()
    assert [m.index for m in found] == wrong[:5]
    for m in found:
        assert (m.label, m.prediction) == (labels[m.index], predictions[m.index])
        assert m.probability == pytest.approx(probabilities[m.index, m.prediction].item())
        assert m.label_probability == pytest.approx(probabilities[m.index, m.label].item())


def test_fewer_mistakes_than_wanted() -> None:
    mistakes = Mistakes(5)
    mistakes.add(torch.eye(3), torch.tensor([0, 1, 0]))
    assert [(m.index, m.label, m.prediction) for m in mistakes.most_confident_first()] == [
        (2, 0, 2)
    ]
