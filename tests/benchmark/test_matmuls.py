"""Matrix products of a step, counted by hand."""

from mixer_dilated.benchmark.matmuls import Matmul, flops, forward_matmuls, training_matmuls
from mixer_dilated.benchmark.measure import step_matmuls
from mixer_dilated.config import resolve
from mixer_dilated.models.costs import flops_per_image, layers
from mixer_dilated.training.setup import create_setup
from mixer_dilated.training.state import create_model
from tests.conftest import ROOT, config_of, small_config


def test_products_of_a_step_are_counted_by_hand():
    config = resolve(config_of(ROOT / 'configs' / 'mnist_dilated.py'))
    network = layers(create_model(config, 10), (28, 28, 1))
    forward, training = forward_matmuls(network, 128), training_matmuls(network, 128)
    token, channel, rows = 16, 64, 128 * 16
    stem, head = Matmul(rows, 16, 64), Matmul(128, 64, 10)
    blocks = {
        Matmul(128 * channel, token, 64): 4,
        Matmul(128 * channel, 64, token): 4,
        Matmul(rows, channel, 128): 4,
        Matmul(rows, 128, channel): 4,
    }
    assert Matmul(3, 4, 5).flops == 120
    assert forward == {stem: 1, head: 1, **blocks}
    assert flops(forward) == 128 * flops_per_image(network)
    assert flops(training) == 3 * flops(forward) - stem.flops
    assert training[Matmul(channel, rows, 128)] == 4  # a kernel's gradient
    assert flops(forward_matmuls(network, 128, phases=6)) == 6 * flops(forward)


def test_a_forward_pass_at_every_phase_has_the_products_of_every_phase():
    """`augment.random_phase` averages over them: at dilation 2 there are four."""
    once, all_phases = (
        create_setup(small_config(**{'augment.random_phase': phases})) for phases in (False, True)
    )
    assert flops(step_matmuls(all_phases, 'forward')) == 4 * flops(step_matmuls(once, 'forward'))
    assert step_matmuls(all_phases, 'training') == step_matmuls(once, 'training')
