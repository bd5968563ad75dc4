from result_samples import llama_decode

from archsim.results import load_result


def test_a_result_comes_back_from_its_file(tmp_path):
    result = llama_decode()
    result.to_hdf5(tmp_path / "r.h5")
    assert load_result(tmp_path / "r.h5") == result
