// Runs a model with this package's operator in a C++ program: the library is a plugin of Paddle.
//
//     run_model MODEL PLUGIN INPUT EXPECTED N C H W
//
// MODEL is the path of a saved model without suffix, as `paddle.jit.save` or `python -m paddle_dcn
// convert --to fast` writes it. PLUGIN is the library; `python -m paddle_dcn info` says where it
// is. INPUT and EXPECTED are float32 arrays without a header: the model's one input, of shape
// N, C, H, W, and what its first output should be.

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#if __has_include(<paddle_inference_api.h>)
#include <paddle_inference_api.h>
#else
// The wheel has the classes and not their headers, so this is the part of them that is used here.
namespace paddle {

struct alignas(64) AnalysisConfig {
  AnalysisConfig(const std::string& program, const std::string& parameters);
  void DisableMKLDNN();
  void EnableNewExecutor(bool on = true);
  void EnableNewIR(bool on = true);
  char members[1 << 16];  // more than there are
};

}  // namespace paddle

namespace paddle_infer {

using Config = paddle::AnalysisConfig;

class Tensor {
 public:
  void Reshape(const std::vector<int>& shape);
  std::vector<int> shape() const;
  template <typename T>
  void CopyFromCpu(const T* from);
  template <typename T>
  void CopyToCpu(T* to) const;
};

class Predictor {
 public:
  std::vector<std::string> GetInputNames();
  std::vector<std::string> GetOutputNames();
  std::unique_ptr<Tensor> GetInputHandle(const std::string& name);
  std::unique_ptr<Tensor> GetOutputHandle(const std::string& name);
  bool Run();
};

std::shared_ptr<Predictor> CreatePredictor(const Config& config);

}  // namespace paddle_infer
#endif

static std::vector<float> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<float> values(bytes.size() / sizeof(float));
  std::copy_n(bytes.data(), values.size() * sizeof(float), reinterpret_cast<char*>(values.data()));
  return values;
}

int main(int argc, char** argv) {
  if (argc != 9) {
    std::fprintf(stderr, "usage: %s MODEL PLUGIN INPUT EXPECTED N C H W\n", argv[0]);
    return 2;
  }
  // Loading the library registers its operators.
  if (dlopen(argv[2], RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  const std::string model = argv[1];
  // Neither these nor tensors are freed: of what has no header the size is not known.
  auto& config = *new paddle_infer::Config(model + ".json", model + ".pdiparams");
  config.DisableMKLDNN();
  config.EnableNewExecutor(true);
  config.EnableNewIR(true);  // or else: PreconditionNotMet
  const auto predictor = paddle_infer::CreatePredictor(config);

  const std::vector<float> values = read(argv[3]), expected = read(argv[4]);
  auto* input = predictor->GetInputHandle(predictor->GetInputNames()[0]).release();
  input->Reshape({std::atoi(argv[5]), std::atoi(argv[6]), std::atoi(argv[7]), std::atoi(argv[8])});
  input->CopyFromCpu(values.data());
  predictor->Run();
  const auto* output = predictor->GetOutputHandle(predictor->GetOutputNames()[0]).release();
  size_t count = 1;
  for (const int size : output->shape()) count *= size;
  std::vector<float> found(count);
  output->CopyToCpu(found.data());

  if (count != expected.size()) {
    std::fprintf(stderr, "%zu values, expected %zu\n", count, expected.size());
    return 1;
  }
  float difference = 0, largest = 0;
  for (size_t i = 0; i < count; ++i) {
    difference = std::max(difference, std::abs(found[i] - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  std::printf("%zu values, largest difference %.2g of %.2g\n", count, difference, largest);
  return difference <= 1e-5f * largest ? 0 : 1;
}
