"""The loss where there are labels, and micro-batches of text alone, in one process and in two."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from pargo_mllm import loss as loss_module
from pargo_mllm.loss import next_token_loss
from pargo_mllm.training.trainer.parts import freeze_all_but

KINDS = ("pargo", "linear", "mlp", "qformer", "resampler", "c_abstractor", "d_abstractor")


def make_batch(model, with_picture, seed=0):
    """A row of a picture and words, or of words alone, with labels on the last words."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 4, (1, 9), generator=generator) + model.config.image_token_id + 3
    if not with_picture:
        return {"input_ids": words, "labels": words}
    image = torch.full((1, model.config.num_image_tokens), model.config.image_token_id)
    ids = torch.cat((words[:, :3], image, words[:, 3:]), dim=1)
    labels = torch.cat((torch.full_like(ids[:, :-4], -100), words[:, -4:]), dim=1)
    return {"input_ids": ids, "labels": labels, "pixel_values": torch.randn(1, 3, 28, 28, generator=generator)}


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("at_once", [1, 7, 1000])
@pytest.mark.parametrize("num_items", [None, 40, torch.tensor(40)])
def test_loss_and_gradients_are_those_over_all_logits(monkeypatch, at_once, num_items):
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", at_once * 50)
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(16, 50, bias=False), torch.randn(3, 12, 16)
    labels = torch.randint(0, 50, (3, 12))
    labels[torch.rand(3, 12) < 0.5] = -100
    found, shapes = [], []
    head.register_forward_hook(lambda module, args, out: shapes.append(len(out)))
    for all_logits in (False, True):
        states = hidden.clone().requires_grad_()
        head.zero_grad()
        if all_logits:
            shifted = labels[:, 1:].flatten()
            total = cross_entropy((states[:, :-1] @ head.weight.T).flatten(0, 1), shifted, reduction="sum")
            loss = total / ((shifted != -100).sum() if num_items is None else num_items)
        else:
            loss = next_token_loss(head, states, labels, 50, num_items)
        loss.backward()
        found.append((loss.detach(), states.grad, head.weight.grad.clone()))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)
    count = int((labels[:, 1:] != -100).sum())
    assert max(shapes) == min(at_once, count)
    assert sum(shapes) == count * (1 if at_once >= count else 2), "once more in the backward pass where it takes several parts"


def test_a_long_sum_in_bf16_keeps_its_precision(monkeypatch):
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 256 * 512)
    torch.manual_seed(0)
    head = torch.nn.Linear(32, 512, bias=False, dtype=torch.bfloat16)
    hidden, labels = torch.randn(1, 3000, 32, dtype=torch.bfloat16), torch.randint(0, 512, (1, 3000))
    expected = cross_entropy(hidden[0, :-1].double() @ head.weight.double().T, labels[0, 1:])
    loss = next_token_loss(head, hidden, labels, 512)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_without_a_label_loss_and_gradients_are_zero(make_model):
    model = make_model().train()
    batch = make_batch(model, True)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    for num_items in (None, torch.tensor(0)):
        model.zero_grad()
        loss = model(**batch, num_items_in_batch=num_items).loss
        loss.backward()
        assert loss.item() == 0.0
        assert all((gradient == 0).all() for gradient in gradients(model).values())


def test_logits_are_skipped_where_the_loss_is_all_that_is_wanted(make_model):
    model = make_model()
    batch, shapes = make_batch(model, True), []
    model.lm_head.register_forward_hook(lambda module, args, out: shapes.append(out.shape[:-1]))
    evaluated = model(**batch)
    assert evaluated.logits.shape[:2] == batch["input_ids"].shape
    assert model(**batch, skip_logits=True).logits is None
    model.train()
    shapes.clear()
    trained = model(**batch)
    assert trained.logits is None
    assert shapes == [(1, 4)]
    torch.testing.assert_close(trained.loss, evaluated.loss)
    assert model(**batch, skip_logits=False).logits.shape == evaluated.logits.shape
    del batch["labels"]
    assert model(**batch).logits.shape == evaluated.logits.shape


@pytest.mark.parametrize("kind", KINDS)
def test_text_alone_gives_every_parameter_of_the_projector_a_zero_gradient(make_model, kind):
    model = make_model(projector_type=kind)
    batch = make_batch(model, False)
    expected = model(**batch).loss.item()
    model.train()
    freeze_all_but(model, "projector")
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    parameters = list(model.model.projector.parameters())
    assert all(parameter.grad is not None and (parameter.grad == 0).all() for parameter in parameters)


def test_text_alone_runs_no_projector_that_does_not_train(make_model):
    model, runs = make_model(), []
    model.model.projector.register_forward_hook(lambda module, args, out: runs.append(out))
    batch = make_batch(model, False)
    model(**batch)
    model.train()
    with torch.no_grad():
        model(**batch)
    freeze_all_but(model, "language_model")
    model(**batch).loss.backward()
    assert runs == []


def train_a_rank(rank, model, batches, num_items, folder):
    """What one of two processes does: a step of DDP without looking for unused parameters."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    wrapped = DistributedDataParallel(model)
    wrapped(**batches[rank], num_items_in_batch=num_items).loss.backward()
    torch.save(gradients(model), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_a_rank_of_text_alone_does_not_hold_up_the_one_with_pictures(make_model, tmp_path):
    model = make_model().train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("projector" in name or ("language_model" in name and "q_proj" in name))
    batches = [make_batch(model, False), make_batch(model, True)]
    num_items = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    for batch in batches:
        model(**batch, num_items_in_batch=num_items).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    arguments = (model, batches, num_items, tmp_path)
    # not forked: a fork takes along what earlier tests left in this process, locks and all, but not their threads
    ranks = torch.multiprocessing.spawn(train_a_rank, arguments, nprocs=2, join=False, daemon=True)
    assert any(ranks.join(timeout=240) for _ in range(2)), "both come to an end"
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            # DDP gives the mean over ranks
            torch.testing.assert_close(2 * found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)
