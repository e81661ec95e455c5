// The form of an error, and the distance behind "did you mean".
#include "base/error.h"

#include <gtest/gtest.h>

#include <vector>

namespace thimble {
namespace {

TEST(Error, HasOneFormAndLeavesOutWhatIsNotSaid) {
  const Error e(Fault::does_not_fit, {.what = "out of budget", .where = "layer 3", .expected = "1 GiB", .found = "2 GiB", .fix = "name a larger budget"});
  EXPECT_STREQ(e.what(), "out of budget\n  where:    layer 3\n  expected: 1 GiB\n  found:    2 GiB\n  fix:      name a larger budget");
  EXPECT_STREQ(Error(Fault::usage, {.what = "no", .fix = "yes"}).what(), "no\n  fix:      yes");
  EXPECT_EQ(int(e.fault()), 4);
  EXPECT_EQ(Error("a defect").fault(), Fault::internal);
}

TEST(Error, FaultsAreExitCodes) {
  EXPECT_EQ(int(Fault::internal), 1);
  EXPECT_EQ(int(Fault::usage), 2);
  EXPECT_EQ(int(Fault::bad_input), 3);
  EXPECT_EQ(int(Fault::does_not_fit), 4);
  EXPECT_EQ(int(Fault::peer), 5);
  EXPECT_EQ(int(Fault::interrupted), 75);
}

TEST(Error, ACheckNamesTheLineThatNoticed) {
  EXPECT_NO_THROW(check(true, "fine"));
  try {
    check(false, "two is three");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::internal);
    EXPECT_EQ(e.problem().what, "two is three");
    EXPECT_NE(e.problem().where.find("error_test.cpp:" + std::to_string(__LINE__ - 5)), std::string::npos) << e.problem().where;
  }
}

TEST(Error, EditDistance) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("abc", ""), 3);
  EXPECT_EQ(edit_distance("", "ab"), 2);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("lora_rank", "lora_rnak"), 2);
  EXPECT_EQ(edit_distance("same", "same"), 0);
}

TEST(Error, NearestIsCloseOrNothing) {
  const std::vector<std::string> words{"learning_rate", "lora_rank", "seed"};
  EXPECT_EQ(nearest("learning_rat", words), "learning_rate");
  EXPECT_EQ(nearest("lorarank", words), "lora_rank");
  EXPECT_EQ(nearest("gradient_checkpointing", words), "");
  EXPECT_EQ(nearest("seed", std::vector<std::string>{}), "");
}

}  // namespace
}  // namespace thimble
