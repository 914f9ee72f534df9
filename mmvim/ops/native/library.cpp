// Registers the selective scan, the short convolution and the bidirectional WKV on CPUs, forward and backward, as PyTorch operators.
#include <torch/library.h>

#include "bi_wkv_backward.h"
#include "scan_backward.h"
#include "conv_silu.h"
#include "scan_forward.h"

// How `boundaries` is cut: steps from one boundary to the next, lanes of a vector.
static std::vector<int64_t> layout() { return {mmvim::CHUNK, mmvim::W}; }

TORCH_LIBRARY(mmvim_native, m) {
  m.def("layout() -> int[]", layout);
  m.def(
      "scan_forward(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
      "Tensor? initial_state, Tensor? maps, int[] map_ids, int[] reverse, int[] follow, int length, bool partial, "
      "bool delta_softplus, bool stack, ScalarType out_dtype, bool save) -> (Tensor, Tensor, Tensor)");
  m.def(
      "scan_backward(Tensor grad_out, Tensor? grad_last_state, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, "
      "Tensor? D, Tensor? z, Tensor? delta_bias, Tensor? initial_state, Tensor? maps, int[] map_ids, int[] reverse, "
      "int[] follow, int length, bool partial, bool delta_softplus, bool stack, Tensor boundaries) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("conv_silu_forward(Tensor x, Tensor weight, Tensor? bias, int[] left) -> Tensor");
  m.def("conv_silu_backward(Tensor grad, Tensor x, Tensor weight, Tensor? bias, int[] left) -> (Tensor, Tensor, Tensor)");
  m.def("bi_wkv_forward(Tensor decay, Tensor bonus, Tensor k, Tensor v, bool published) -> Tensor");
  m.def(
      "bi_wkv_backward(Tensor grad, Tensor decay, Tensor bonus, Tensor k, Tensor v, bool published) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(mmvim_native, CPU, m) {
  m.impl("scan_forward", mmvim::scan_forward);
  m.impl("scan_backward", mmvim::scan_backward);
  m.impl("conv_silu_forward", mmvim::conv_silu_forward);
  m.impl("conv_silu_backward", mmvim::conv_silu_backward);
  m.impl("bi_wkv_forward", mmvim::bi_wkv_forward);
  m.impl("bi_wkv_backward", mmvim::bi_wkv_backward);
}
