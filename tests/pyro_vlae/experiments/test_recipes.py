import json
import math
from dataclasses import FrozenInstanceError, fields

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

from pyro_vlae.data import dataset_names, load_dataset
from pyro_vlae.experiments import (
    RECIPES,
    BinaryRecipe,
    ColorRecipe,
    ConfigError,
    PianoRollRecipe,
    Recipe,
)
from pyro_vlae.experiments.command_line import add_recipe_options, make_parser, recipe_options
from pyro_vlae.experiments.recipes import read_recipe, recipe_from_config
from pyro_vlae.infer import FreeBitsELBO


def make(**given):
    return BinaryRecipe.from_options(**given)


def test_paper_preset_is_the_recipe_of_the_paper():
    recipe = make(preset="paper")
    assert (recipe.prior, recipe.guide, recipe.likelihood) == ("flow", "gaussian", "pixelcnn")
    assert (recipe.learning_rate, recipe.ema_decay) == (0.002, 0.998)
    assert (recipe.num_samples, recipe.eval_images) == (4096, None)
    assert recipe.train_on == "train+validation"


def test_a_given_budget_replaces_the_presets():
    assert make(preset="paper", max_minutes=3.0).epochs is None
    assert make(epochs=2).max_minutes is None and make(max_steps=2).max_minutes is None
    both = make(epochs=2, max_minutes=1.0)
    assert (both.epochs, both.max_minutes) == (2, 1.0)
    assert make(epochs=None) == make(preset="quick") == BinaryRecipe()


def test_masked_convolutions_are_tied_where_data_is_scarce():
    assert make().tied and make(dataset="digits").tied
    for dataset in ("mnist", "omniglot", "caltech101"):
        assert not make(dataset=dataset).tied
    assert make(dataset="omniglot", tied=True).tied


def test_description_names_what_was_chosen():
    text = make(prior="normal", epochs=3, eval_images=7).describe()
    for part in ("preset quick", "normal prior", "3 epochs", "batches of 64", "7 test images"):
        assert part in text


def test_free_bits_are_those_of_the_paper_or_follow_a_schedule():
    assert make().objective(784).free_nats == pytest.approx(7.84)
    assert type(make(model="unconditional").objective(784)) is Trace_ELBO
    elbo = make(free_nats=3.0, free_until=0.5).objective(784)
    assert isinstance(elbo, FreeBitsELBO)


def test_more_training_codes_give_tighter_bounds(linear_gaussian):
    problem = linear_gaussian()
    x = problem.sample(4000)
    log_p = problem.log_prob(x).sum().item()

    def objective(codes):
        return make(train_samples=codes).objective(x[0].numel())

    loss = objective(3).loss(problem.model, problem.guide, x)
    assert -loss == pytest.approx(log_p, rel=1e-12)

    def wide_guide(x):
        problem.guide(x, scale=1.3)

    elbo = Trace_ELBO(num_particles=64, vectorize_particles=True)
    objectives = [elbo, *map(objective, (2, 8, 64))]
    gaps = [log_p + bound.loss(problem.model, wide_guide, x) for bound in objectives]
    assert gaps[0] > gaps[1] > 1.5 * gaps[2] > 3 * abs(gaps[3])


@pytest.mark.parametrize("guide", ["gaussian", "iaf"])
def test_every_image_has_weights_of_its_own(guide):
    recipe = make(train_samples=3, guide=guide, code_dim=2, filters=4, image_shape=(1, 8, 8))
    model, guide = (module.double().eval() for module in recipe.build())
    x = torch.rand(5, 1, 8, 8).round().double()
    torch.manual_seed(0)
    loss = recipe.objective(64).loss(model, guide, x)
    torch.manual_seed(0)
    program = pyro.plate("codes", 3, dim=-2)(guide)
    site = poutine.trace(program).get_trace(x).nodes["z"]
    z = site["value"]
    log_weight = model.prior().log_prob(z) - site["fn"].log_prob(z)
    log_weight += model.likelihood(model.decoder(z)).log_prob(x)
    assert log_weight.shape == (3, 5)
    assert -loss == pytest.approx((log_weight.logsumexp(0) - math.log(3)).sum().item(), rel=1e-12)


@pytest.mark.parametrize("guide", ["gaussian", "iaf"])
def test_two_steps_on_the_importance_weighted_bound_move_every_parameter(guide):
    recipe = make(train_samples=3, guide=guide, code_dim=2, filters=4, image_shape=(1, 8, 8))
    modules = torch.nn.ModuleList(recipe.build())
    svi = SVI(*modules, recipe.optimizer(), recipe.objective(64))
    x = torch.rand(6, 1, 8, 8).round()
    svi.step(x)
    before = {name: p.detach().clone() for name, p in modules.named_parameters()}
    svi.step(x)
    assert not [n for n, p in modules.named_parameters() if torch.equal(p, before[n])]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_samples": 0}, "train_samples must be at least 1, got 0"),
        ({"model": "unconditional"}, "is 5, but model unconditional has no code: leave one"),
        ({"free_nats": 3.0}, "is 5, but free_nats is 3, and its bound has no free bits: leave"),
    ],
)
def test_numbers_of_training_codes_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        make(**{"train_samples": 5, **wrong})


@pytest.mark.parametrize(("factor", "rates"), [(1.0, {0.008}), (4.0, {0.008, 0.032})])
def test_the_likelihood_may_have_its_own_learning_rate(factor, rates):
    recipe = make(likelihood_learning_rate_factor=factor)
    model, guide = recipe.build()
    optimizer, names = recipe.optimizer(), torch.nn.ModuleDict({"model": model, "guide": guide})
    optimizer.register(names.named_parameters())
    for parameter in names.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: p.detach().clone() for name, p in names.named_parameters()}
    optimizer(names.parameters())
    # With constant gradients, the first step of Adamax is the learning rate itself.
    moved = {n: (before[n] - p).abs().mean().item() for n, p in names.named_parameters()}
    assert {round(step, 4) for step in moved.values()} == rates
    for name, step in moved.items():
        expected = 0.008 * (factor if name.startswith("model.likelihood.") else 1)
        assert step == pytest.approx(expected, rel=1e-3), name


@pytest.mark.parametrize("kind", RECIPES.values(), ids=RECIPES)
def test_every_preset_and_data_set_gives_a_frozen_value_that_config_json_holds(kind):
    for preset in kind.presets:
        for dataset in dataset_names(kind.values):
            recipe = kind.from_options(preset=preset, dataset=dataset)
            config = json.loads(json.dumps(recipe.to_config()))
            assert config["family"] == kind.family
            assert recipe_from_config(config, "here") == recipe
    with pytest.raises(FrozenInstanceError):
        recipe.seed = 1


@pytest.mark.parametrize("kind", RECIPES.values(), ids=RECIPES)
def test_every_option_of_a_subclass_is_described(kind):
    described = {name for name, metadata in kind.options().items() if metadata.get("help")}
    assert described >= {"preset", "epochs", "max_minutes", "seed", "precision", "compile"}
    assert described <= {f.name for f in fields(kind)}


def test_data_sets_have_the_values_that_the_models_take():
    assert load_dataset("digits").values == BinaryRecipe.values


def test_a_recipe_without_a_model_is_refused():
    with pytest.raises(TypeError, match="abstract"):
        Recipe()
    with pytest.raises(ConfigError, match="guide must be one of gaussian, iaf, got 'flow'"):
        make(guide="flow")
    with pytest.raises(
        ConfigError, match=r"must be one of static-mnist.*got 'mnst', which.*mean 'mnist'\?"
    ):
        make(dataset="mnst")
    with pytest.raises(ConfigError, match="cifar10 is a data set for models of the family color"):
        make(dataset="cifar10")


def test_every_preset_can_be_built():
    for preset in BinaryRecipe.presets:
        model, guide = make(preset=preset).build()
        assert len(list(model.parameters())) > 0 and len(list(guide.parameters())) > 0


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"data": "mnist"}'])
def test_an_unreadable_configuration_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"there is no run in.*missing or unreadable"):
        BinaryRecipe.resume(tmp_path)


def test_a_configuration_of_another_version_is_refused(tmp_path):
    config = make().to_config()
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden": 3}))
    with pytest.raises(ConfigError, match=r"does not fit .*'hidden'.*use that version"):
        read_recipe(tmp_path)
    del config["family"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="has no family: another version of pyro_vlae wrote it"):
        read_recipe(tmp_path)


def test_a_resumed_run_may_get_a_new_budget_and_evaluation(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(make().to_config()))
    recipe = BinaryRecipe.resume(tmp_path, epochs=9, num_samples=5, seed=0, compile=True)
    assert (recipe.epochs, recipe.max_minutes, recipe.num_samples) == (9, None, 5)
    assert recipe.compile  # for example when a run moves to a GPU
    assert BinaryRecipe.resume(tmp_path, epochs=None) == make()
    with pytest.raises(ConfigError, match="with max_steps None, got 3"):
        BinaryRecipe.resume(tmp_path, max_steps=3)


def parsed(kind, *arguments):
    parser = make_parser("")
    add_recipe_options(parser, kind)
    return recipe_options(parser.parse_args(arguments), kind)


def test_schedule_and_average_can_be_chosen():
    given = parsed(BinaryRecipe, "--decay-start", "0", "--ema-decay", "0.9995")
    recipe = make(**given)
    assert recipe.training_settings().schedule(0.5) == pytest.approx(0.505)  # half-way down
    assert recipe.optimizer().ema_decay == 0.9995
    assert make(**parsed(BinaryRecipe, "--ema-decay", "0")).ema_decay == 0


def test_zero_is_given_only_where_it_makes_sense(capsys):
    music = parsed(PianoRollRecipe, "--dropout", "0", "--free-nats", "0")
    assert (music["dropout"], music["free_nats"]) == (0, 0)
    assert parsed(ColorRecipe, "--target-nats", "0")["target_nats"] == 0
    for option, value in (("--epochs", "0"), ("--max-minutes", "0"), ("--max-minutes", "inf")):
        with pytest.raises(SystemExit):
            parsed(ColorRecipe, option, value)
        assert f"{option}: must be positive and finite, got {value}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parsed(ColorRecipe, "--target-nats", "-1")
    assert "must be positive or 0 and finite, got -1" in capsys.readouterr().err


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_numbers_are_finite(value):
    with pytest.raises(ConfigError, match="max_minutes must be a finite number, got"):
        make(max_minutes=value)


@pytest.mark.parametrize("value", [0.0, -8.0])
def test_the_limit_of_the_gradient_is_named_as_it_was_given(value):
    with pytest.raises(ConfigError, match=f"clip_norm must be positive, got {value}"):
        make(clip_norm=value)


@pytest.mark.parametrize("name", ["num_samples", "eval_images"])
@pytest.mark.parametrize("value", [0, -2, 2.5, "4"])
def test_what_is_scored_is_checked_before_training(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be 1 to 1000000, got {value!r}"):
        make(**{name: value})


def test_only_a_pixelcnn_is_tied_and_free_bits_are_told():
    text = make(likelihood="bernoulli", free_until=0.5).describe()
    assert "tied" not in text and "free bits: 7.84 nats per image for 50% of the budget" in text
    assert "tied" in make().describe_parts()
    for without in ({"free_nats": 0.0}, {"train_samples": 2}, {"model": "unconditional"}):
        assert "free bits" not in make(**without).describe()


def test_the_guide_of_piano_rolls_is_no_option():
    config = PianoRollRecipe().to_config()
    assert recipe_from_config(config, "here").guide == config["guide"] == "gaussian"
    with pytest.raises(SystemExit):
        parsed(PianoRollRecipe, "--guide", "gaussian")
