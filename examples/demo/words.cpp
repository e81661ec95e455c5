// The lists behind words.h. Values begin with a consonant (so "a" fits them all) and are one word each, as are the names.
// Most phrases put the name before the value: a fact is recalled in the direction in which it was read.
#include "words.h"

namespace thimble::demo {

const std::vector<Name>& names() {
  static const std::vector<Name> list{
      {"Anna", "She"},   {"Ben", "He"},     {"Clara", "She"},  {"David", "He"},   {"Emma", "She"},   {"Frank", "He"},   {"Grace", "She"},
      {"Henry", "He"},   {"Irene", "She"},  {"Jack", "He"},    {"Kate", "She"},   {"Leo", "He"},     {"Maria", "She"},  {"Noah", "He"},
      {"Olga", "She"},   {"Peter", "He"},   {"Queenie", "She"}, {"Robert", "He"},  {"Sarah", "She"},  {"Thomas", "He"},  {"Ursula", "She"},
      {"Victor", "He"},  {"Wendy", "She"},  {"Xavier", "He"},  {"Yvonne", "She"}, {"Zachary", "He"}, {"Alice", "She"},  {"Boris", "He"},
      {"Cecilia", "She"}, {"Daniel", "He"},  {"Elena", "She"},  {"Felix", "He"},   {"Gloria", "She"}, {"Hugo", "He"},    {"Ida", "She"},
      {"James", "He"},   {"Karen", "She"},  {"Lucas", "He"},   {"Martha", "She"}, {"Nathan", "He"},  {"Olivia", "She"}, {"Paul", "He"},
      {"Rachel", "She"}, {"Samuel", "He"},  {"Tessa", "She"},  {"Ulrich", "He"},  {"Vera", "She"},   {"Walter", "He"},  {"Yasmin", "She"},
      {"Zeno", "He"},    {"Agnes", "She"},  {"Bruno", "He"},   {"Carmen", "She"}, {"Dennis", "He"},  {"Edith", "She"},  {"Fred", "He"},
      {"Greta", "She"},  {"Harold", "He"},  {"Ivy", "She"},    {"Jonas", "He"},   {"Klara", "She"},  {"Louis", "He"},   {"Monica", "She"},
      {"Nico", "He"},    {"Nora", "She"},   {"Oscar", "He"},   {"Paula", "She"},  {"Quentin", "He"}, {"Rosa", "She"},   {"Simon", "He"},
      {"Tina", "She"},   {"Theo", "He"},    {"Violet", "She"}, {"Vincent", "He"}, {"Wilma", "She"},  {"William", "He"}, {"Zoe", "She"},
      {"Adam", "He"},    {"Bella", "She"},  {"Carl", "He"},    {"Diana", "She"},  {"Eric", "He"},    {"Flora", "She"},  {"George", "He"},
      {"Hanna", "She"},  {"Ivan", "He"},    {"Julia", "She"},  {"Kevin", "He"},   {"Linda", "She"},  {"Martin", "He"},  {"Nadia", "She"},
      {"Otto", "He"},    {"Petra", "She"},  {"Ralph", "He"},   {"Sonia", "She"},  {"Tobias", "He"},
  };
  return list;
}

const std::array<Kind, 4>& kinds() {
  static const std::array<Kind, 4> list{{
      {"home",
       {"Amberton", "Brookdale", "Clayton", "Dunmore", "Elmwood", "Fairview", "Greenhill", "Hillside", "Kingsport", "Lakewood", "Millbrook", "Northgate"},
       {"lives in {v}", "has a house in {v}", "came to live in {v}", "sleeps at home in {v}"},
       {"The home of {n} is in {v}.", "The house of {n} is in {v}.", "You can find {n} in {v}.", "The town of {n} is {v}.",
        "In {v} is the home of {n}.", "The road to {v} leads to the house of {n}."},
       {"home in {v}", "lives in {v}"},
       "Where does {n} live?"},
      {"thing",
       {"boat", "drum", "clock", "lamp", "horse", "piano", "kite", "wagon", "mirror", "bell", "chair", "book"},
       {"owns a {v}", "has a {v} at home", "came to own a {v}", "bought a {v}"},
       {"The thing that {n} owns is a {v}.", "The pride of {n} is a {v}.", "All know that {n} owns a {v}.", "In the house of {n} is a {v}.",
        "A {v} belongs to {n}.", "The owner of this {v} is {n}."},
       {"owns a {v}", "owner of a {v}"},
       "What does {n} own?"},
      {"food",
       {"bread", "cheese", "rice", "soup", "honey", "fish", "corn", "cake", "butter", "pie", "pasta", "jam"},
       {"likes to eat {v}", "eats {v} every day", "asks for {v} at night", "came to like {v}"},
       {"The food that {n} likes is {v}.", "The plate of {n} is full of {v}.", "Every day you can see {n} eat {v}.", "The food of {n} is {v}.",
        "A plate of {v} is for {n}.", "The friend of all {v} is {n}."},
       {"likes {v}", "food {v}"},
       "What does {n} like to eat?"},
      {"work",
       {"baker", "farmer", "teacher", "doctor", "sailor", "painter", "singer", "miller", "tailor", "hunter", "gardener", "carpenter"},
       {"works as a {v}", "is a {v}", "became a {v}", "does the work of a {v}"},
       {"The work of {n} is that of a {v}.", "All know {n} as a {v}.", "The town likes {n} as a {v}.", "Every day {n} is at work as a {v}.",
        "A good {v} is what you can call {n}.", "The name of this {v} is {n}."},
       {"works as a {v}", "work {v}"},
       "What is the work of {n}?"},
  }};
  return list;
}

const std::vector<std::string_view>& openers() {
  static const std::vector<std::string_view> list{
      "This is about {n}.", "Here is {n}.", "You know {n}.", "Once there came {n}.", "This is a day in town.", "Here is what all know.",
  };
  return list;
}

const std::vector<std::string_view>& stories() {
  static const std::vector<std::string_view> list{
      "One day {n} came to {m.home} to see {m}. The {m.work} had a plate of {m.food} for {n}. \"This is good,\" said the {n.work}, \"but I like {n.food}.\" That was the answer. At night "
      "{n} was at home in {n.home}.",
      "Once {m} came to the house of {n} in {n.home}. There {m} saw the {n.thing} that {n} owns. \"I like this {n.thing},\" said {m} the {m.work}. The friend had an answer: \"I "
      "own a {m.thing}.\" All day {n} and {m} were friends.",
      "One day the {n.work} {n} was on the road to {m.home}. There {n} saw {m}, who lives there. {m} had {m.food}, and {n} had {n.food}, and so they ate. At night "
      "{n} came home to {n.home} and {m} to the {m.thing}.",
      "Once {n} and {m} were at work. \"I am a {n.work},\" said {n}, \"and at home I have a {n.thing}.\" \"I am a {m.work},\" said {m}, \"and at home "
      "I have a {m.thing}.\" At night they ate {n.food} and {m.food}.",
  };
  return list;
}

}  // namespace thimble::demo
