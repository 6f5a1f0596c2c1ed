"""The program that XLA compiles for as many CPU devices, in a process of its own: `compiled_here`.

A device of its own for each of the plan's is forced on the host; the program is compiled for them
and never run, so that nothing of its arrays is allocated.
"""

import collections
import json
import sys

from mixer_dilated.benchmark.processes import ProcessError, run_program
from mixer_dilated.config import resolve
from mixer_dilated.data.datasets import FakeData
from mixer_dilated.errors import UserError
from mixer_dilated.patches.geometry import num_tokens
from mixer_dilated.planning.plan import Plan
from mixer_dilated.planning.program_text import axis_of, exchanges
from mixer_dilated.training.setup import Setup

# Scheduling and memory are XLA's; what LLVM would do to each kernel only takes its time.
FLAGS = '--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={count}'
COMPILE = ['-P', '-m', 'mixer_dilated.planning.compiled']


def compiled_here(plan: Plan) -> dict:
    """Memory and collectives of the program of one step, as XLA's CPU compiler lays them out.

    Args:
      plan: whose task, on as many CPU devices as it has devices.

    Returns:
      'arguments' and 'temporary' bytes (see `CompiledFunctions.training_bytes`),
      'exchanged': {axis: {kind:
      bytes of the arrays}}, 'compile_seconds'.

    Raises:
      UserError: it cannot be compiled; the message has the end of what the compiler said.
    """
    setup = plan.setup
    source = setup.dataset
    words = json.dumps(
        {
            'config': setup.config.to_json(),
            'image_shape': source.image_shape,
            'stored_shape': source.stored_shape,
            'num_classes': source.num_classes,
            'examples': setup.train_examples,
        }
    )
    environment = {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': FLAGS.format(count=plan.devices.count)}
    try:
        said = run_program(COMPILE, [words], environment)
        return json.loads(said.splitlines()[-1])
    except (ProcessError, ValueError, LookupError) as error:
        raise UserError(
            f'--against=compiled: {error}; leave it out, or try fewer devices or blocks'
        ) from None


def _compiled(
    config: str,
    image_shape: list[int],
    stored_shape: list[int],
    num_classes: int,
    examples: int,
) -> dict:
    from mixer_dilated.config import patch_branches
    from mixer_dilated.training.compiled import CompiledFunctions

    resolved = resolve(json.loads(config))
    model, size = resolved.model, tuple(image_shape[:2])
    tokens = num_tokens(patch_branches(model), model.branch_merge, size)
    source = FakeData(tuple(image_shape), num_classes, examples, stored_shape=tuple(stored_shape))
    programs = CompiledFunctions(Setup(resolved, source, examples, examples, tokens))
    found = programs.training_bytes()
    mesh_shape = programs.mesh_shape
    exchanged = collections.defaultdict(collections.Counter)
    for each in exchanges(programs.train_function().as_text()):
        exchanged[axis_of(each, mesh_shape)][each.kind] += each.array_bytes * each.times
    return {**found, 'exchanged': exchanged, 'compile_seconds': programs.compile_seconds}


if __name__ == '__main__':
    print(json.dumps(_compiled(**json.loads(sys.argv[1]))))
