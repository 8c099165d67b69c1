// hindsight trace capture: a trace of a model, without Python.

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "commands.h"
#include "core/interrupt.h"
#include "dtype_option.h"
#include "evaluation/trace_capture.h"
#include "progress.h"

namespace hindsight::app {
namespace {

struct CaptureCommand {
  std::string model, text, output;
  CaptureOptions options;
};

/// The folder's own name, also where it is given as "." or with a slash at its end.
std::string name_of_folder(const std::string& folder) {
  return std::filesystem::weakly_canonical(folder).filename().string();
}

void capture(const CaptureCommand& command, const CommandLine& line) {
  const Checkpoint checkpoint(command.model);
  const std::vector<int32_t> text = read_text(command.text, checkpoint.config());
  const std::unique_ptr<Backend> backend = make_cpu_backend();
  ProgressBar bar(!line.quiet);
  capture_trace(checkpoint, name_of_folder(command.model), *backend, text, command.output, command.options,
                [&](double done, double total) {
                  throw_if_interrupted();
                  bar.update(done, total, command.output);
                });
}

}  // namespace

void add_capture_command(CLI::App& trace, CommandLine& line) {
  auto command = std::make_shared<CaptureCommand>();
  CaptureOptions& options = command->options;
  CLI::App* app = trace.add_subcommand("capture", "make a trace of a model (Llama, Mistral, Qwen2, Qwen3)");
  app->add_option("--model", command->model, "folder of config.json and *.safetensors")
      ->required()
      ->type_name("DIR");
  app->add_option("--model-label", options.label, "name of the model in the trace, instead of the folder's");
  app->add_option("--text", command->text,
                  "text of a byte-level model, or token ids: the first line of a .jsonl, {\"tokens\": [...]}")
      ->required()
      ->type_name("FILE");
  app->add_option("--prompt-tokens", options.prompt_tokens, "tokens of the prompt")->required();
  app->add_option("--tokens", options.tokens, "tokens of the whole sequence")->required();
  app->add_option("--generate", options.generate, "the last of them are written by the model")
      ->capture_default_str();
  app->add_option("--layers", options.layers, "layers to keep, instead of all")->delimiter(',');
  add_dtype_option(*app, options.dtype);
  app->add_option("--temperature", options.sampling.temperature, "of sampling; 0 is greedy")
      ->capture_default_str();
  app->add_option("--seed", options.sampling.seed, "of sampling")->capture_default_str();
  app->add_option("-o,--output", command->output, "trace file to write")->required()->type_name("FILE");
  app->footer(
      "Example: hindsight trace capture --model experiments/reference_model/model --text "
      "experiments/traces/quickstart.prompt --prompt-tokens 1536 --tokens 2048 --generate 512 -o "
      "/tmp/mine.h5");
  app->callback([command, &line] { line.action = [command, &line] { capture(*command, line); }; });
}

}  // namespace hindsight::app
