#include "evaluation/eval_data.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "support/eval_case.h"
#include "support/small_trace.h"

namespace hindsight::test {
namespace {

const std::string generate = "mode: generate\ndata: d.jsonl\n";
const std::string forced = "mode: teacher_forced\ndata: d.jsonl\n";

std::vector<EvalSequence> read(EvalCase& files, const std::string& settings) {
  return files.resolve(files.plan(settings)).data.front().sequences;
}

TEST(EvalData, PromptsAndAnswersAsBytes) {
  EvalCase files;
  files.write("d.jsonl",
              "{\"prompt\": \"\\u0000ab\", \"answer\": \"cd\", \"task\": \"any\"}\n\n"
              "{\"prompt\": \"xyz\", \"answer\": \"w\", \"scored\": [[0, 1]]}");
  const auto sequences = read(files, generate);
  ASSERT_EQ(sequences.size(), 2u);
  EXPECT_EQ(sequences[0].tokens, (std::vector<int32_t>{0, 'a', 'b'}));
  EXPECT_EQ(sequences[0].answer, (std::vector<int32_t>{'c', 'd'}));
  EXPECT_EQ(sequences[0].new_tokens, 2);
  ASSERT_EQ(sequences[0].scored.size(), 1u);
  EXPECT_EQ(sequences[0].scored[0].last, 2);
  EXPECT_EQ(sequences[1].tokens, (std::vector<int32_t>{0, 'x', 'y', 'z'}));  // byte 0 is put in front
}

TEST(EvalData, TheSameLinesTeacherForced) {
  EvalCase files;
  files.write("d.jsonl", "{\"prompt\": \"ab\", \"answer\": \"cdef\"}\n");
  const auto sequences = read(files, forced);
  EXPECT_EQ(sequences[0].tokens, (std::vector<int32_t>{0, 'a', 'b', 'c', 'd', 'e', 'f'}));
  EXPECT_EQ(sequences[0].prompt_tokens, 3);
  const auto cut = read(files, forced + "tokens: 6\nprompt_tokens: 2\n");
  EXPECT_EQ(cut[0].tokens.size(), 6u);
  EXPECT_EQ(cut[0].prompt_tokens, 2);
}

TEST(EvalData, TokenIds) {
  EvalCase files({.vocabulary = 64});
  files.write("d.jsonl", "{\"tokens\": [5, 63, 0, 7]}\n{\"tokens\": [1, 2, 3]}\n");
  const auto sequences = read(files, forced + "prompt_tokens: 1\nsequences: 1\n");
  ASSERT_EQ(sequences.size(), 1u);
  EXPECT_EQ(sequences[0].tokens, (std::vector<int32_t>{5, 63, 0, 7}));
}

TEST(EvalData, SequencesAreSpreadEvenlyOverTheFile) {
  EvalCase files;
  std::string lines, text;
  for (char name = 'a'; name <= 'g'; ++name) {
    lines += "{\"prompt\": \"" + std::string(1, name) + "\", \"answer\": \"x\"}\n";
    text += std::string(3, name);
  }
  files.write("d.jsonl", lines);
  files.write("t.txt", text);
  const auto names_of = [](const std::vector<EvalSequence>& sequences) {
    std::string names;
    for (const EvalSequence& sequence : sequences) names += static_cast<char>(sequence.tokens[1]);
    return names;
  };
  const std::string cut = "mode: teacher_forced\ndata: t.txt\ntokens: 4\nprompt_tokens: 2\nsequences: ";
  const std::vector<std::pair<std::string, std::string>> expected{
      {"1", "a"}, {"2", "ad"}, {"3", "ace"}, {"6", "abcdef"}, {"7", "abcdefg"}, {"9", "abcdefg"}};
  for (const auto& [n, names] : expected) {
    EXPECT_EQ(names_of(read(files, generate + "sequences: " + n + "\n")), names) << n;
    EXPECT_EQ(names_of(read(files, cut + n + "\n")), names) << n;
  }
}

TEST(EvalData, BytesAreCutIntoWindowsOfDocuments) {
  EvalCase files;
  files.write("t.txt", std::string("abcdefg\0hi\0jklm", 15));
  const auto sequences = read(files, "mode: teacher_forced\ndata: t.txt\ntokens: 4\nprompt_tokens: 2\n");
  ASSERT_EQ(sequences.size(), 3u);
  EXPECT_EQ(sequences[0].tokens, (std::vector<int32_t>{0, 'a', 'b', 'c'}));
  EXPECT_EQ(sequences[1].tokens, (std::vector<int32_t>{0, 'd', 'e', 'f'}));
  EXPECT_EQ(sequences[2].tokens, (std::vector<int32_t>{0, 'j', 'k', 'l'}));
}

TEST(EvalData, TheTokensOfATrace) {
  EvalCase files({.vocabulary = 64});
  TraceInfo info = info_of({.n_tokens = 9, .prompt_tokens = 5});
  {
    TraceWriter writer(files.dir / "t.h5", info, {DType::float32, 5, 0});
    writer.write_tokens({1, 2, 3, 4, 5, 6, 7, 8, 63});
    writer.finish();
    TraceWriter(files.dir / "none.h5", info, {DType::float32, 5, 0}).finish();
    TraceWriter large(files.dir / "large.h5", info, {DType::float32, 5, 0});
    large.write_tokens({1, 2, 3, 4, 5, 6, 7, 8, 64});
    large.finish();
  }
  const auto text = read(files, "mode: teacher_forced\ndata: t.h5\n");
  EXPECT_EQ(text[0].tokens, (std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7, 8, 63}));
  EXPECT_EQ(text[0].prompt_tokens, 5);
  const auto prompt = read(files, "mode: generate\ndata: t.h5\n");
  EXPECT_EQ(prompt[0].tokens, (std::vector<int32_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(prompt[0].answer, (std::vector<int32_t>{6, 7, 8, 63}));
  EXPECT_THROW(read(files, "mode: generate\ndata: none.h5\n"), InputError);
  EXPECT_THROW(read(files, "mode: generate\ndata: large.h5\n"), InputError);
}

struct BadData {
  std::string name, settings, text, says;
  int64_t vocabulary = 256;
};
void PrintTo(const BadData& bad, std::ostream* out) { *out << bad.name; }

class BadDataFile : public ::testing::TestWithParam<BadData> {};

TEST_P(BadDataFile, IsRefusedInOneLineWithItsPlace) {
  EvalCase files({.vocabulary = GetParam().vocabulary});
  files.write("d.jsonl", GetParam().text);
  try {
    read(files, GetParam().settings);
    FAIL() << "was accepted";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(GetParam().says), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Table, BadDataFile,
    ::testing::Values(
        BadData{"Empty", generate, "", "d.jsonl: holds no sequence"},
        BadData{"NotJson", generate, "{\"prompt\": \"a\", \"answer\": \"b\"}\n{prompt}\n",
                "d.jsonl:2: is no JSON object"},
        BadData{"AList", generate, "[1]\n", "d.jsonl:1: is no JSON object"},
        BadData{"NoPrompt", generate, "{\"promt\": \"a\"}\n", "d.jsonl:1: needs prompt"},
        BadData{"PromptAndText", generate, "{\"prompt\": \"a\", \"text\": \"b\"}\n",
                "d.jsonl:1: needs prompt"},
        BadData{"NoAnswer", generate, "{\"prompt\": \"a\"}\n", "max_new_tokens would be right"},
        BadData{"NumberAsPrompt", generate, "{\"prompt\": 3}\n", "d.jsonl:1: prompt: a text or a list"},
        BadData{"TokenTooLarge", generate, "{\"prompt\": [1, 256], \"answer\": [1]}\n",
                "d.jsonl:1: prompt: item 1 is no token; 0 to 255"},
        BadData{"TokenNegative", generate, "{\"prompt\": [-1], \"answer\": [1]}\n", "item 0 is no token"},
        BadData{"EmptyPrompt", generate, "{\"prompt\": [], \"answer\": [1]}\n", "has an empty prompt"},
        BadData{"TextForAnotherVocabulary", generate, "{\"prompt\": \"a\"}\n", "are no bytes", 64},
        BadData{"SpanBeyondTheAnswer", generate,
                "{\"prompt\": \"a\", \"answer\": \"b\", \"scored\": [[0, 2]]}\n",
                "d.jsonl:1: scored: item 0"},
        BadData{"SpanBackwards", generate,
                "{\"prompt\": \"a\", \"answer\": \"bc\", \"scored\": [[0, 1], [2, 1]]}\n",
                "d.jsonl:1: scored: item 1"},
        BadData{"SpansNoList", generate, "{\"prompt\": \"a\", \"answer\": \"b\", \"scored\": 1}\n",
                "d.jsonl:1: scored: a list"},
        BadData{"TooLong", generate + "max_new_tokens: 600\n", "{\"prompt\": \"a\"}\n",
                "d.jsonl:1: a sequence of 602 tokens exceeds the model's context of 512"},
        BadData{"NothingAfterThePrompt", forced, "{\"prompt\": \"a\", \"answer\": \"b\"}\n",
                "leaves nothing to measure"},
        BadData{"PromptTokensMissing", forced, "{\"text\": \"abcdef\"}\n",
                "c.yaml: prompt_tokens: is missing"},
        BadData{"NoFile", "mode: generate\ndata: none.jsonl\n", "", "none.jsonl: no such file"}),
    [](const auto& bad) { return bad.param.name; });

}  // namespace
}  // namespace hindsight::test
