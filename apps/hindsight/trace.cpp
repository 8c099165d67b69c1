// hindsight trace info | validate | synth | convert (capture: capture.cpp).

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "commands.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "dtype_option.h"
#include "progress.h"
#include "results/table.h"
#include "trace/convert.h"
#include "trace/synth.h"

namespace hindsight::app {
namespace {

void print_info(const std::string& file) {
  const TraceReader reader(file);
  const TraceInfo& info = reader.info();
  Table table({"trace", file});
  table.add_row({"model", info.model});
  table.add_row({"source", info.source});
  table.add_row({"capture", info.capture.empty() ? "-" : info.capture});
  table.add_row({"tokens", fmt::format("{} ({} prompt, {} decode steps)", info.n_tokens, info.prompt_tokens,
                                       info.n_decode_steps())});
  table.add_row({"heads", fmt::format("{} query, {} KV, group {}", info.n_q_heads, info.n_kv_heads,
                                      info.n_q_heads / info.n_kv_heads)});
  table.add_row({"head dimension", fmt::format("{}", info.head_dim)});
  table.add_row({"softmax scale", fmt::format("{:.6g}", info.softmax_scale)});
  table.add_row({"rope", info.rope});
  table.add_row({"layers", fmt::format("{} of {}: {}", info.layers.size(), info.n_model_layers,
                                       fmt::join(info.layers, ", "))});
  table.add_row({"stored as", std::string(name_of(reader.dtype(info.layers.front())))});
  table.add_row({"tokens stored", reader.tokens() ? "yes" : "no"});
  table.add_row({"file", format_bytes(static_cast<double>(std::filesystem::file_size(file)))});
  table.add_row({"sha256", file_digest(file)});
  fmt::print("{}", table.render());
}

/// Every layer is looked at, so that one run names all that is wrong.
void validate(const std::string& file, const CommandLine& line) {
  const TraceReader reader(file);
  ProgressBar bar(!line.quiet);
  std::string problems;
  const auto collect = [&](const auto& read) {
    try {
      read();
    } catch (const TraceError& error) {
      problems += (problems.empty() ? "" : "\n") + std::string(error.what());
    }
  };
  collect([&] { reader.tokens(); });
  const auto total = static_cast<double>(reader.info().layers.size());
  double done = 0;
  for (const int64_t layer : reader.info().layers) {
    throw_if_interrupted();
    bar.update(done++, total, fmt::format("layer {}", layer));
    collect([&] { reader.read_layer(layer); });
  }
  if (!problems.empty()) throw TraceError(problems);
  fmt::print("{}: valid, {} layers\n", file, reader.info().layers.size());
}

void add_synth(CLI::App& trace, CommandLine& line) {
  auto options = std::make_shared<SynthOptions>();
  auto file = std::make_shared<std::string>();
  CLI::App* synth = trace.add_subcommand("synth", "make a trace whose attention looks like a model's");
  synth->add_option("-o,--output", *file, "trace file to write")->required()->type_name("FILE");
  synth->add_option("--tokens", options->n_tokens, "tokens of the sequence")->capture_default_str();
  synth->add_option("--prompt-tokens", options->prompt_tokens, "tokens of the prompt")->capture_default_str();
  synth->add_option("--layers", options->n_layers, "layers")->capture_default_str();
  synth->add_option("--q-heads", options->n_q_heads, "query heads")->capture_default_str();
  synth->add_option("--kv-heads", options->n_kv_heads, "KV heads")->capture_default_str();
  synth->add_option("--head-dim", options->head_dim, "head dimension")->capture_default_str();
  add_dtype_option(*synth, options->dtype);
  synth->add_option("--seed", options->seed, "the same seed gives the same bytes")->capture_default_str();
  synth->add_option("--sinks", options->sinks, "first tokens that every query attends to")
      ->capture_default_str();
  synth->add_option("--sink-strength", options->sink_strength, "added to their logits")
      ->capture_default_str();
  synth->add_option("--locality", options->locality, "width in tokens of the attention to recent ones")
      ->capture_default_str();
  synth->add_option("--local-strength", options->local_strength, "added to the logit of the newest")
      ->capture_default_str();
  synth->add_option("--topics", options->topics, "number of topics")->capture_default_str();
  synth->add_option("--topic-length", options->topic_length, "tokens until the topic changes, on average")
      ->capture_default_str();
  synth->add_option("--topic-strength", options->topic_strength, "added to logits where topics agree")
      ->capture_default_str();
  synth->add_option("--noise", options->noise, "width of what is left to chance")->capture_default_str();
  synth->add_option("--tail", options->tail, "degrees of freedom of that chance: fewer, heavier tails")
      ->capture_default_str();
  synth->footer(
      "Example: hindsight trace synth -o traces/synth-8k.h5 --tokens 8192 --prompt-tokens 7168 --layers 2");
  synth->callback([=, &line] {
    line.action = [=, &line] {
      ProgressBar bar(!line.quiet);
      synthesize(*file, *options, [&](double done, double total) {
        throw_if_interrupted();
        bar.update(done, total, *file);
      });
    };
  });
}

void add_convert(CLI::App& trace, CommandLine& line) {
  auto options = std::make_shared<ConvertOptions>();
  auto source = std::make_shared<std::string>(), target = std::make_shared<std::string>();
  CLI::App* convert = trace.add_subcommand("convert", "make a trace from .npz or .safetensors arrays");
  convert->add_option("source", *source, "arrays saved by your own hooks")->required()->type_name("ARRAYS");
  convert->add_option("-o,--output", *target, "trace file to write")->required()->type_name("FILE");
  convert->add_option("--prompt-tokens", options->prompt_tokens, "tokens of the prompt")->required();
  convert->add_option("--model", options->model, "name of the model")->capture_default_str();
  convert
      ->add_option("--model-layers", options->n_model_layers,
                   "layers of the model (0: the last one found + 1)")
      ->capture_default_str();
  convert->add_option("--softmax-scale", options->softmax_scale, "0: 1/sqrt(head_dim)")
      ->capture_default_str();
  convert->add_option("--rope", options->rope, "applied or none")
      ->check(CLI::IsMember({"applied", "none"}))
      ->capture_default_str();
  convert
      ->add_option("--q-name", options->q_name, "name of the queries [T - q_start, Hq, d], {} for the layer")
      ->capture_default_str();
  convert->add_option("--k-name", options->k_name, "name of the keys [T, Hkv, d]")->capture_default_str();
  convert->add_option("--v-name", options->v_name, "name of the values [T, Hkv, d]")->capture_default_str();
  convert->add_flag("--uint16-is-bf16", options->uint16_is_bf16,
                    "arrays of uint16 hold the bits of bfloat16");
  convert->footer(
      "Example: hindsight trace convert hooks.safetensors -o traces/mine.h5 --prompt-tokens 1024 --model "
      "mine");
  convert->callback([=, &line] { line.action = [=] { convert_arrays(*source, *target, *options); }; });
}

}  // namespace

void add_trace_command(CLI::App& app, CommandLine& line) {
  CLI::App* trace = app.add_subcommand("trace", "look into, check, make and convert trace files");
  trace->require_subcommand(1);
  trace->fallthrough();
  trace->footer("Example: hindsight trace info experiments/traces/quickstart.h5");
  auto file = std::make_shared<std::string>();
  CLI::App* info = trace->add_subcommand("info", "what a trace file holds");
  info->add_option("file", *file, "trace file")->required()->type_name("TRACE.h5");
  info->footer("Example: hindsight trace info experiments/traces/quickstart.h5");
  info->callback([file, &line] { line.action = [file] { print_info(*file); }; });
  CLI::App* check = trace->add_subcommand("validate", "read every value and list what is wrong");
  check->add_option("file", *file, "trace file")->required()->type_name("TRACE.h5");
  check->footer("Example: hindsight trace validate experiments/traces/quickstart.h5");
  check->callback([file, &line] { line.action = [file, &line] { validate(*file, line); }; });
  add_synth(*trace, line);
  add_convert(*trace, line);
  add_capture_command(*trace, line);
}

}  // namespace hindsight::app
