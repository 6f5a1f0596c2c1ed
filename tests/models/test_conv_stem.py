"""The network with a convolution as its stem."""

import chex
import pytest

from mixer_dilated.models.conv_stem import ConvStemMixer
from mixer_dilated.patches.geometry import Patches
from tests.models.test_mixer import DILATED, random_images, random_variables, small_mixer

BRANCHES = {
    'dilated': (DILATED,),
    'several': (DILATED, Patches(size=7, stride=7)),
    'padded': (Patches(size=3, dilation=2, stride=4, padding='SAME'),),
    'cropped': (Patches(size=4, stride=5, padding=((-2, 1), (3, -1))),),
    'moved': (Patches(size=4, dilation=2, stride=7, offset=-1),),
}


@pytest.mark.parametrize('name', BRANCHES)
@pytest.mark.parametrize('blur', [False, True])
def test_it_computes_what_the_network_does_with_the_same_parameters(name, blur):
    model, images = small_mixer(branches=BRANCHES[name], blur=blur), random_images()
    variables = random_variables(model, images, train=False)
    chex.assert_trees_all_close(
        ConvStemMixer.like(model).apply(variables, images, train=False),
        model.apply(variables, images, train=False),
        atol=1e-4,
    )
