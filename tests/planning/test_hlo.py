"""What the HLO text of a step says: cycles, bytes, parts of the network, exchanges."""

import pytest

from mixer_dilated.planning.hlo import Program, mesh_axis, part_of

# A loop over steps, which stops at an argument, and in it a loop of eight rounds.
TPU = """HloModule jit_of_all, is_scheduled=true, num_partitions=4

%eight (p: (u32[], f32[8])) -> pred[] {
  %constant.1 = u32[] constant(8)
  %get.1 = u32[] get-tuple-element(%p), index=0
  ROOT %compare.1 = pred[] compare(%get.1, %constant.1), direction=LT
}

%round (p: (u32[], f32[8])) -> (u32[], f32[8]) {
  %p = (u32[], f32[8]) parameter(0)
  ROOT %fusion.1 = (u32[], f32[8]) fusion(%p), kind=kLoop, calls=%any, metadata={op_name="jit(of_all)/while/body/jvp(Mixer)/MixerBlock_1/token_mixing/dot_general"}, backend_config={"window_config":{"estimated_cycles":"10"}}
}

%gathers (p: f32[4]) -> (f32[4], f32[16]) {
  %p.2 = f32[4] parameter(0)
  ROOT %all-gather.1 = f32[16] all-gather(%p.2), replica_groups=mesh['a'=2,'b'=2] {'b'}, dimensions={0}
}

%step (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %while.1 = (u32[], f32[8]) while(%t), condition=%eight, body=%round
  %async-collective-start.1 = (f32[4], f32[16]) fusion(%x), kind=kCustom, calls=%gathers
  %fusion.2 = f32[8] fusion(%x), kind=kOutput, calls=%any, metadata={op_name="jit(of_all)/while/body/transpose(jvp(Mixer))/head/dot_general"}, backend_config={"window_config":{"estimated_cycles":"7"}}
  %async-collective-done.1 = f32[16] fusion(%y), kind=kCustom, calls=%gathers
  %all-reduce.1 = (f32[8], bf16[2,3]) all-reduce(%x, %z), replica_groups={{0,2},{1,3}}, to_apply=%add
  %collective-permute.1 = f32[8] collective-permute(%x), source_target_pairs={{0,0},{1,1},{2,2},{3,3}}
  %collective-permute.2 = f32[8] collective-permute(%x), source_target_pairs={{0,0},{1,1},{3,2},{2,3}}
  ROOT %copy.1 = f32[8] copy(%x), backend_config={"window_config":{"estimated_cycles":"9223372036854775807"}}
}

%any_number (p: (s32[], f32[8])) -> pred[] {
  ROOT %compare.2 = pred[] compare(%get.2, %get.3), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %copy.2 = f32[8] copy(%p), backend_config={"window_config":{"estimated_cycles":"1000"}}
  ROOT %while.2 = (s32[], f32[8]) while(%t), condition=%any_number, body=%step
}
"""  # noqa: E501

GPU = """HloModule jit_of_all, is_scheduled=true, num_partitions=8

%takes (param_0: u8[1000,4], param_1: s32[2]) -> u8[2,4] {
  %param_0 = u8[1000,4]{1,0} parameter(0)
  %param_1 = s32[2]{0} parameter(1)
  ROOT %gather.1 = u8[2,4]{1,0} gather(%param_0, %param_1), offset_dims={1}
}

ENTRY %main (images: u8[1000,4], rows: s32[2], x: f32[4]) -> f32[4] {
  %images = u8[1000,4]{1,0} parameter(0)
  %rows = s32[2]{0} parameter(1)
  %x = f32[4]{0} parameter(2)
  %fusion.1 = u8[2,4]{1,0} fusion(%images, %rows), kind=kLoop, calls=%takes, metadata={op_name="jit(of_all)/while/body/gather"}
  %all-gather-start = (f32[4]{0}, f32[32]{0}) all-gather-start(%x), replica_groups=[1,8]<=[8], dimensions={0}
  %gemm.1 = f32[4]{0} custom-call(%x), custom_call_target="gemm", metadata={op_name="jit(of_all)/while/body/jvp(Mixer)/stem/dot_general"}
  %all-gather-done = f32[32]{0} all-gather-done(%all-gather-start)
  %reduce-scatter-start = (f32[32]{0}, f32[4]{0}) reduce-scatter-start(%all-gather-done), replica_groups=[1,8]<=[8], to_apply=%add
  %reduce-scatter-done = f32[4]{0} reduce-scatter-done(%reduce-scatter-start)
  ROOT %bitcast.1 = f32[4]{0} bitcast(%reduce-scatter-done)
}
"""  # noqa: E501


def costs(program):
    return [(part_of(name), times, cost) for name, times, cost in program.costs()]


def test_cycles_of_a_step_are_listed_with_the_rounds_of_its_loops():
    program = Program(TPU)
    assert program.has_cycles
    # What is done once a chunk, and estimates that are not known, are not of a step.
    assert costs(program) == [('token_mixing', 8, 10), ('head', 1, 7)]


def test_exchanges_are_read_with_their_devices_and_what_goes_on_meanwhile():
    assert Program(TPU).exchanges() == [
        ('all-gather', 64, [0, 1], 1, True),
        ('all-reduce', 32 + 12, [0, 2], 1, False),
        ('collective-permute', 32, [2, 3], 1, False),  # the others keep their array
    ]
    # A pair with a kernel between its halves is asynchronous.
    assert Program(GPU).exchanges() == [
        ('all-gather', 128, list(range(8)), 1, True),
        ('reduce-scatter', 128, list(range(8)), 1, False),
    ]


def test_devices_lie_along_axes_of_the_mesh():
    mesh = {'seeds': 1, 'data': 2, 'model': 2}
    axes = [mesh_axis(group, mesh) for group in ([2, 3], [0, 2], [0, 3])]
    assert axes == ['model', 'data', 'data+model']


def test_kernels_read_and_write_their_arrays_and_of_images_what_they_gather():
    program = Program(GPU)
    assert not program.has_cycles
    assert costs(program) == [('input', 1, 8 + 8 + 8), ('stem', 1, 16 + 16)]


@pytest.mark.parametrize(
    ('op_name', 'part'),
    [
        ('', 'copies'),
        ('while/body/gather', 'input'),
        ('while/body/augment/jit(_uniform)/sub', 'augment'),
        ('while/body/optimizer/cond/branch_1_fun/add', 'optimizer'),
        ('while/body/jvp(jit(log_softmax))/sub', 'loss, pooling'),
        ('jvp(Mixer)/MixerBlock_3/LayerNorm_0/mul', 'LayerNorm'),
        ('jvp(Mixer)/pre_head_layer_norm/mul', 'LayerNorm'),
        ('jvp(Mixer)/MixerBlock_3/transpose', 'residuals, layout'),
    ],
)
def test_operations_belong_to_parts_of_the_network(op_name, part):
    assert part_of(op_name) == part
