"""The command `plan`: parse, call, print."""

import json

from mixer_dilated.cli import preemption
from mixer_dilated.cli.arguments import Arguments
from mixer_dilated.cli.commands import required
from mixer_dilated.errors import UserError
from mixer_dilated.files import AtomicFile, check_output

AGAINST = ('compiled', 'measured')


def plan(arguments: Arguments, started: float) -> None:
    """Prints what a config asks of devices, and writes it."""
    config = required(arguments, 'config')
    words = required(arguments, 'devices').split(',')
    against = _against(arguments.against)
    if arguments.json:
        check_output('json', arguments.json)
    from mixer_dilated.planning.devices import parse_devices
    from mixer_dilated.planning.facts import planned_source
    from mixer_dilated.planning.plan import hardware_of, plan_of
    from mixer_dilated.planning.shapes import shapes_of
    from mixer_dilated.reports.plan_table import print_plan, print_plans
    from mixer_dilated.training.setup import create_setup

    asked = [parse_devices(word) for word in words]
    for devices in asked:
        if 'measured' in against and devices.kind != 'this':
            raise UserError(
                f'--against=measured: a step is timed on this machine alone, not on '
                f'{devices.asked}; add --devices=this'
            )
    source = planned_source(config.dataset)
    plans, shapes = [], None
    for devices in asked:
        setup = create_setup(_of_batch(config, arguments.batch_per_device, devices.count), source)
        shapes = shapes or shapes_of(setup)
        plans.append(plan_of(setup, shapes, devices, hardware_of(devices, setup, shapes)))
    contents = [_content(each, against) for each in plans]
    if len(contents) == 1:
        print_plan(arguments.name, contents[0])
    else:
        print_plans(arguments.name, contents)
    if arguments.json:
        found = {'name': arguments.name, 'config': config.to_dict(), 'plans': contents}
        with AtomicFile(arguments.json, 'json') as output:
            output.write((json.dumps(found, indent=2) + '\n').encode())
        print(f'\njson: {arguments.json}')


def _content(plan, against: list[str]) -> dict:
    from mixer_dilated.planning.advice import changes_that_help
    from mixer_dilated.planning.content import plan_content

    content = plan_content(plan, [] if plan.fits else changes_that_help(plan))
    if 'compiled' in against:
        from mixer_dilated.planning.compiled import compiled_here

        preemption.raise_interrupt()  # ends the process it starts
        content['compiled'] = compiled_here(plan)
    if 'measured' in against:
        from mixer_dilated.planning.measured import measured_step

        content['measured_step'] = measured_step(plan)
    return content


def _of_batch(config, batch_per_device: int | None, devices: int):
    """The config with as many images a device as asked for, whatever mesh they make.

    The batch is that of one seed: devices that have other seeds do not share it.
    """
    if batch_per_device is None:
        return config
    from mixer_dilated.config import changed
    from mixer_dilated.parallel.mesh import mesh_sizes

    _, data, _ = mesh_sizes(config, devices)
    return changed(config, {'batch': batch_per_device * data})


def _against(words: str | None) -> list[str]:
    """The words of --against; UserError if one is not among `AGAINST`."""
    given = words.split(',') if words else []
    for word in given:
        if word not in AGAINST:
            raise UserError(f'--against={words}: {word!r}: allowed are {", ".join(AGAINST)}')
    return given
