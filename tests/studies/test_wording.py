"""Numbers as sentences have them."""

from mixer_dilated.studies.verdicts import listing, p_phrase, points_text, ratio_text


def test_numbers_in_sentences_never_round_to_the_other_side():
    assert p_phrase(0.0004) == 'p < 0.001' and p_phrase(0.004) == 'p = 0.004'
    assert p_phrase(0.04999) == 'p just under 0.05' and p_phrase(0.05001) == 'p just over 0.05'
    assert points_text(-0.0025, 0.001) == ['−0.25', '+0.10']
    assert points_text(0.00001) == ['+0.001'] and points_text(0.0) == ['0']
    assert ratio_text(0.4, 1.0012) == ['0.400', '1.001']
    assert ratio_text(0.9996) == ['0.9996'] and ratio_text(1.0) == ['1.00']
    assert listing(['a', 'b', 'c']) == 'a, b and c' and listing(['a']) == 'a'
