// What may be drawn, and how likely, beside transformers' logits processors in float64; the draw itself; and stop strings at any cut.
#include "serve/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <random>
#include <tuple>

#include "base/json.h"
#include "golden_folder.h"
#include "serve/host_sampler.h"
#include "serve/stop_strings.h"

namespace thimble::serve {
namespace {

Sampling sampling_of(const Json& c) {
  return {.temperature = c.value("temperature", 1.0), .top_k = c.value("top_k", int64_t{0}), .top_p = c.value("top_p", 1.0), .min_p = c.value("min_p", 0.0),
          .repetition_penalty = c.value("repetition_penalty", 1.0)};
}

TEST(Sampler, DrawsFromWhatTransformersLeaves) {
  const Json golden = parse_json(read_text(golden_folder() / "sampling.json", 1 << 20), "sampling.json");
  const auto logits = golden["logits"].get<std::vector<std::vector<float>>>();
  const auto prompt = golden["prompt"].get<std::vector<int32_t>>();
  ASSERT_GE(golden["cases"].size(), 10u);
  for (const Json& c : golden["cases"]) {
    HostSampler sampler(sampling_of(c["how"]));
    sampler.begin(prompt);
    for (size_t row = 0; row < logits.size(); ++row) {
      const auto all = sampler.candidates(logits[row]);
      const Json& expected = c["kept"][row];
      const size_t n = expected.size();
      // Of equals at the edge of top-p transformers keeps those that its sort put first; here all stay.
      ASSERT_GE(all.size(), n) << c["how"].dump() << " row " << row;
      ASSERT_TRUE(all.size() == n || c["how"].contains("top_p")) << c["how"].dump() << " row " << row;
      for (size_t i = n; i < all.size(); ++i) ASSERT_EQ(all[i].second, all[n - 1].second) << c["how"].dump() << " row " << row;
      std::map<int32_t, double> ours;
      double sum = 0;
      for (size_t i = 0; i < n; ++i) sum += all[i].second;
      for (const auto& [id, p] : all) ours[id] = p / sum;
      for (const Json& e : expected) EXPECT_NEAR(ours.at(e[0].get<int32_t>()), e[1].get<double>(), 1e-6) << c["how"].dump();
    }
  }
}

// What damaged weights give: nothing could be compared, and sorting it would be undefined.
TEST(Sampler, LogitsThatAreNotNumbersAreRefused) {
  for (const float bad : {NAN, INFINITY, -INFINITY})
    for (const double temperature : {0.0, 1.0}) {
      std::vector<float> logits(1000, 1.0f);
      logits[500] = bad;
      HostSampler s({.temperature = temperature, .top_k = 5});
      try {
        s.next(logits);
        ADD_FAILURE() << bad;
      } catch (const Error& e) {
        EXPECT_EQ(e.fault(), Fault::bad_input);
        EXPECT_NE(e.problem().fix.find("--check-tensors"), std::string::npos);
      }
    }
}

TEST(Sampler, PenaltiesOfTheAnswerAlone) {
  const std::vector<float> logits{2, 2, 1};
  HostSampler s({.presence_penalty = 0.5, .frequency_penalty = 0.25});
  s.begin(std::vector<int32_t>{0, 1});  // a prompt does not count
  std::vector<int32_t> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(s.next(logits));
  // 2 2 1; 1.25 2 1; 1.25 1.25 1; 1 1.25 1; 1 1 1
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 1, 0, 1, 0}));
  EXPECT_EQ(s.next(logits), 1);
}

TEST(Sampler, DrawsAreAsLikelyAsTheySayAndFollowTheSeed) {
  const std::vector<float> logits{0, std::log(2.0f), std::log(5.0f), -100};
  std::map<int32_t, int> count;
  HostSampler a({.temperature = 1, .seed = 3}), b({.temperature = 1, .seed = 3}), c({.temperature = 1, .seed = 4});
  int differ = 0;
  for (int i = 0; i < 8000; ++i) {
    const int32_t id = a.next(logits);
    ++count[id];
    EXPECT_EQ(id, b.next(logits));
    differ += id != c.next(logits);
  }
  EXPECT_NEAR(count[0], 1000, 120);  // four standard deviations
  EXPECT_NEAR(count[1], 2000, 160);
  EXPECT_NEAR(count[2], 5000, 175);
  EXPECT_EQ(count[3], 0);
  EXPECT_GT(differ, 1000);
}

// A vocabulary is sorted only as far as its likely tokens go: beside one that is sorted whole, at temperatures that leave few or nearly all, with many equals.
TEST(Sampler, IsThatOfAWholeSort) {
  std::mt19937 random(5);
  for (const double spread : {0.0, 0.01, 3.0, 1e4})
    for (const double temperature : {1e-4, 0.6, 1.0, 50.0, 1e6})
      for (const auto& [top_k, top_p, min_p] : {std::tuple{0, 1.0, 0.0}, {40, 1.0, 0.0}, {0, 0.9, 0.0}, {0, 1.0, 0.02}, {300, 0.95, 0.001}, {1, 1.0, 0.0}, {99999, 0.5, 0.0}}) {
        std::vector<float> logits(5000);
        for (float& x : logits) x = float(std::floor(std::normal_distribution<>(0, 8)(random)) * spread / 8);  // many are equal
        std::vector<std::pair<double, int32_t>> all;
        for (size_t i = 0; i < logits.size(); ++i) all.emplace_back(-double(logits[i]), int32_t(i));
        std::sort(all.begin(), all.end());
        size_t n = all.size();
        if (top_k > 0 && size_t(top_k) < n)
          while (n > 0 && all[n - 1].first > all[size_t(top_k) - 1].first) --n;
        std::vector<double> weight;
        double sum = 0, kept = 0;
        for (size_t i = 0; i < n; ++i) weight.push_back(std::exp((all[0].first - all[i].first) / temperature)), sum += weight.back();
        size_t count = 0;
        const auto same_as_last = [&] { return count > 0 && count < n && all[count].first == all[count - 1].first; };
        while (count < n && (count == 0 || ((top_p >= 1 || kept < top_p * sum || same_as_last()) && weight[count] >= min_p))) kept += weight[count++];
        const auto ours = HostSampler({.temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p}).candidates(logits);
        SCOPED_TRACE(fmt::format("spread {}, temperature {}, top-k {}, top-p {}, min-p {}", spread, temperature, top_k, top_p, min_p));
        ASSERT_EQ(ours.size(), count);
        for (size_t i = 0; i < count; ++i) {
          ASSERT_EQ(ours[i].first, all[i].second) << i;
          ASSERT_NEAR(ours[i].second, weight[i] / kept, 1e-12 + 1e-5 * weight[i] / kept) << i;
        }
      }
}

TEST(Sampler, DefaultsOfAModelFolder) {
  const fs::path folder = fs::path(testing::TempDir()) / "thimble_sampling";
  fs::create_directories(folder);
  EXPECT_EQ(read_sampling(folder / "absent").temperature, 0);
  const auto with = [&](std::string_view text) { return write_atomically(folder / "generation_config.json", text), read_sampling(folder); };
  const Sampling s = with(R"({"do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05})");
  EXPECT_EQ(s.temperature, 0.6);
  EXPECT_EQ(s.top_k, 20);
  EXPECT_EQ(s.top_p, 0.95);
  EXPECT_EQ(s.repetition_penalty, 1.05);
  EXPECT_EQ(with(R"({"temperature": 0.6})").temperature, 0);
  for (const char* bad : {R"({"temperature": -1})", R"({"top_p": 2})", R"({"top_k": "a"})", "[]", R"({"repetition_penalty": 0})"}) EXPECT_THROW(with(bad), Error) << bad;
}

TEST(StopStrings, EndATextWhereverItIsCut) {
  const std::string text = "one STO two </s STOP three";
  for (size_t cut = 0; cut <= text.size(); ++cut)
    for (size_t second = cut; second <= text.size(); ++second) {
      StopStrings stop({"STOP", "</s>"});
      std::string out = stop.push(text.substr(0, cut));
      EXPECT_EQ(out.find("STOP"), out.npos);
      out += stop.push(text.substr(cut, second - cut));
      out += stop.push(text.substr(second));
      EXPECT_TRUE(stop.stopped());
      EXPECT_EQ(out + stop.finish(), "one STO two </s ");
    }
  StopStrings stop({"aab", "abc"});
  EXPECT_EQ(stop.push("xaa"), "x");
  EXPECT_EQ(stop.push("a"), "a");
  EXPECT_EQ(stop.push("c"), "aac");
  EXPECT_EQ(stop.push("ab"), "");
  EXPECT_EQ(stop.finish(), "ab");
  EXPECT_FALSE(stop.stopped());
}

}  // namespace
}  // namespace thimble::serve
