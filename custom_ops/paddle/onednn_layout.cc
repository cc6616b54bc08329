// What a predictor with oneDNN, whose tensors are in layouts of their own, tells of one.
#include <memory>

#include "paddle/phi/core/dense_tensor.h"
#include "tensors.h"

// Paddle ships neither the headers of oneDNN nor, without these, the declaration of a tensor's
// description. All is weak because a Paddle built without oneDNN lacks it, and then has no tensor
// in a layout of oneDNN's.
struct dnnl_memory_desc;
extern "C" {
__attribute__((weak)) int dnnl_memory_desc_create_with_strides(dnnl_memory_desc** made, int axes,
                                                               const int64_t* sizes, int type,
                                                               const int64_t* strides);
__attribute__((weak)) int dnnl_memory_desc_equal(const dnnl_memory_desc* a,
                                                 const dnnl_memory_desc* b);
__attribute__((weak)) int dnnl_memory_desc_destroy(dnnl_memory_desc* made);
}

namespace dcn {
namespace binding {

// phi::DenseTensor::mem_desc. In oneDNN 3 a description is a shared pointer.
__attribute__((weak)) const std::shared_ptr<dnnl_memory_desc>& memory_of(
    const phi::DenseTensor& tensor) __asm__("_ZNK3phi11DenseTensor8mem_descEv");

bool has_channels_last([[maybe_unused]] const Tensor& tensor) {
#if PADDLE_DCN_PADDLE_MAJOR >= 3
  constexpr int kSuccess = 0, kFloat32 = 3;  // dnnl_success, dnnl_f32
  if (!tensor.defined() || !tensor.is_dense_tensor()) return false;
  const auto& dense = static_cast<const phi::DenseTensor&>(*tensor.impl());
  const auto& dims = dense.dims();
  if (dense.layout() != phi::DataLayout::ONEDNN || dense.dtype() != phi::DataType::FLOAT32 ||
      dims.size() != 4 || !dense.initialized() || &dnnl_memory_desc_equal == nullptr) {
    return false;
  }
  const int64_t sizes[] = {dims[0], dims[1], dims[2], dims[3]};
  const int64_t strides[] = {dims[1] * dims[2] * dims[3], 1, dims[1] * dims[3], dims[1]};
  dnnl_memory_desc* wanted = nullptr;
  if (dnnl_memory_desc_create_with_strides(&wanted, 4, sizes, kFloat32, strides) != kSuccess) {
    return false;
  }
  const bool equal = dnnl_memory_desc_equal(memory_of(dense).get(), wanted) != 0;
  dnnl_memory_desc_destroy(wanted);
  return equal;
#else
  return false;
#endif
}

}  // namespace binding
}  // namespace dcn
